"""Every hyperparameter of `mobilenet_v2_classification`, as gin-bindable arguments."""

import dataclasses

import gin

from mnv2_hpu.errors import UserError, did_you_mean

COMPUTE_DTYPES = ("bfloat16", "float32")
PREPROCESSING = ("inception", "model_garden")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """MobileNetV2 trained as slim trained it, unless a field says otherwise.

  Gin binds the fields as `mobilenet_v2_classification.<field>`. Sources: the paper
  (arXiv 1801.04381, section 6.1) and slim's `train_image_classifier.py`.

  Raises:
    UserError: if a value is impossible.
  """

  # ---- Data. A count of 0 is read from data_dir/dataset.json. ----
  data_dir: str = gin.REQUIRED  # folder of the TFRecords
  train_files: str = "train-*"  # pattern below data_dir
  validation_files: str = "validation-*"  # pattern below data_dir
  num_classes: int = 0  # with the background class, where labels start at 1
  num_train_examples: int = 0
  num_validation_examples: int = 0

  # ---- Preprocessing ----
  image_size: int = 224  # height and width of the network's input, in pixels
  preprocessing: str = "inception"  # one of PREPROCESSING
  fast_mode: bool = True  # False adds hue, contrast and random resize methods
  crop: bool = True  # training: a random crop; evaluation: the central one
  crop_area_range: tuple[float, float] = (0.05, 1.0)  # shares of the image's area
  crop_aspect_ratio_range: tuple[float, float] = (0.75, 1.33)  # width / height
  crop_min_object_covered: float = 0.1  # share of the image that a crop holds
  central_fraction: float = 0.875  # share of each side that evaluation keeps
  flip: bool = True  # training mirrors half of the images
  color_distortion: bool = True  # training changes brightness and saturation
  reduced_decoding: bool = False  # decode large crops at a half, quarter or eighth
  shuffle_buffer_size: int = 10_000  # examples
  cache: bool = False  # keep the encoded examples in memory
  deterministic: bool = True  # False does not wait for a slow file
  max_corrupt_records: int = 100  # that training skips, per pipeline
  autotune_ram_mib: int = 2048  # most that tf.data makes ahead by its own choice
  seed: int = 0  # of initial weights, dropout, the order and distortion of examples

  # ---- Network ----
  width_multiplier: float = 1.0  # of the channels: the paper's alpha
  finegrain_classification_mode: bool = True  # last convolution: 1280 channels or more
  output_stride: int | None = None  # 8, 16, 32; None is 32
  activation: str = "relu6"  # after every convolution but the projections
  dropout_rate: float = 0.2  # before the logits
  norm_momentum: float = 0.997  # of the moving batch statistics
  norm_epsilon: float = 0.001  # added to the batch variance
  use_sync_bn: bool = False  # batch statistics over all replicas
  kernel_initializer_stddev: float = 0.09  # of a normal cut at two deviations
  init_checkpoint: str = ""  # a checkpoint, or a folder of some, to start from
  init_checkpoint_modules: str = "backbone"  # or "all": what is read from it
  freeze_backbone: bool = False  # train the logits only

  # ---- Loss ----
  label_smoothing: float = 0.1  # share of the target spread over all classes
  weight_decay: float = 4e-5  # times half the sum of squares of ordinary kernels

  # ---- Optimizer and learning rate ----
  optimizer: str = "rmsprop_tf1"  # a type of trainer.optimizer_config.optimizer
  rho: float = 0.9  # decay of RMSProp's mean square
  momentum: float = 0.9
  epsilon: float = 1.0  # inside RMSProp's root
  learning_rate: float = 0.045  # for one replica
  # One of optimizers.LEARNING_RATE_SCHEDULES.
  learning_rate_schedule: str = "exponential_slim"
  learning_rate_scaling: str = "linear"  # one of schedules.SCALING_RULES
  decay_rate: float = 0.98  # factor of each decay
  decay_epochs: float = 2.5  # epochs between two decays
  staircase: bool = True  # decay in steps, not continuously
  warmup_epochs: float | None = None  # None leaves it to the scaling rule

  # ---- Averaged weights ----
  average_decay: float = 0.9999  # 0 keeps no averages
  average_batch_statistics: bool = True

  # ---- Durations ----
  batch_size: int = 96  # training images per replica
  eval_batch_size: int = 96  # evaluation images per replica
  train_epochs: float = 420.0
  eval_every_epochs: float = 1.0
  checkpoint_every_epochs: float = 1.0
  max_checkpoints: int = 5  # newest ones that are kept
  log_every_steps: int = 20

  # ---- Where and how it runs ----
  distribution_strategy: str = "one_device"  # "hpu" or one of Model Garden's
  num_gpus: int = 0  # of this process, for "one_device" and "mirrored"
  compute_dtype: str = "float32"  # one of COMPUTE_DTYPES; logits, loss stay float32

  def __post_init__(self) -> None:
    """Checks what can be checked without the data."""
    choices = {"compute_dtype": COMPUTE_DTYPES, "preprocessing": PREPROCESSING}
    for name, allowed in choices.items():
      value = getattr(self, name)
      if value not in allowed:
        raise UserError(f"{name}: {value!r} is unknown. {did_you_mean(value, allowed)}")
    for name in ("batch_size", "eval_batch_size", "image_size", "log_every_steps"):
      if getattr(self, name) < 1:
        raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")


configured_recipe = gin.external_configurable(
  Recipe, "mobilenet_v2_classification", module="mnv2_hpu"
)
