"""The settings of the input, each declared once and under one name.

`configs.recipe.Recipe` inherits both classes of fields, so that gin binds each of them
as `mobilenet_v2_classification.<name>`; the experiment holds them as
`task.train_data.<name>` and `task.train_data.preprocessing_options.<name>`.
"""

import dataclasses
from collections.abc import Mapping

from official.core import config_definitions as cfg
from official.modeling import hyperparams

from mnv2_hpu.errors import UserError

PREPROCESSINGS = ("inception", "model_garden")
RANDOM_CROPS = ("ssd", "none")


@dataclasses.dataclass
class InputFields:
  """Which records are read, and how."""

  preprocessing: str = "inception"  # one of PREPROCESSINGS
  shuffle_buffer_size: int = 10_000  # records among which training draws the next one
  cache: bool = False  # keep the encoded records of a pipeline in memory
  # False does not wait for a slow file or image. Two runs of one seed, or one that was
  # interrupted and one that was not, then read other records. Evaluation always waits.
  deterministic: bool = True
  max_corrupt_records: int = 100  # that training replaces, per pipeline; one more stops
  # grpc://host:port of a tf.data service whose workers read and distort training's
  # images; empty: this process does (docs/input_pipeline.md).
  service_address: str = ""
  autotune_ram_mib: int = 2048  # most that tf.data prefetches where it is autotuned
  seed: int = 0  # what weights, dropout, order and augmentation follow from


@dataclasses.dataclass
class DataFields(InputFields):
  """`InputFields`, and what the experiment alone has: recipes count by split."""

  num_examples: int = 0  # 0: counted from the files


@dataclasses.dataclass
class AugmentationFields:
  """What the training of every task may do to an image."""

  flip: bool = True  # training mirrors half of the images


@dataclasses.dataclass
class PreprocessingFields(AugmentationFields):
  """What is done to an image; the defaults are slim's `inception_v2`.

  The preprocessing "model_garden" is that of Model Garden's parser: mean and standard
  deviation. It honours `crop` and `flip` alone, and draws from TensorFlow's global
  generator, so that neither two runs nor a resumed one augment alike.
  """

  fast_mode: bool = True  # False adds hue, contrast and random resize methods
  crop: bool = True  # training: a random crop; evaluation: the central one
  crop_area_range: tuple[float, float] = (0.05, 1.0)  # fractions of the image's area
  crop_aspect_ratio_range: tuple[float, float] = (0.75, 1.33)  # width / height
  crop_min_object_covered: float = 0.1  # fraction of the image that a crop holds
  central_fraction: float = 0.875  # fraction of each side kept in evaluation
  color_distortion: bool = True  # training changes brightness and saturation
  # Decode a JPEG at a half, quarter or eighth where the crop is that many times as
  # large as the network's input. Faster; other pixels than slim's
  # (docs/input_pipeline.md).
  reduced_decoding: bool = False
  # Training images reach the device as uint8, a quarter of the bytes, which does colors
  # and range. Resized pixels are then whole levels. Fast mode alone.
  preprocess_on_device: bool = False


@dataclasses.dataclass
class PreprocessingOptions(PreprocessingFields, hyperparams.Config):
  """`task.train_data.preprocessing_options`, and that of the validation data."""


@dataclasses.dataclass
class DetectionFields(AugmentationFields):
  """What is done to an image and its boxes; the defaults are TF1 SSD's."""

  random_crop: str = "ssd"  # one of RANDOM_CROPS; training alone crops
  max_boxes: int = 100  # in an image; those beyond it count neither here nor there


@dataclasses.dataclass
class DetectionOptions(DetectionFields, hyperparams.Config):
  """`task.train_data.preprocessing_options` of a detector, and of its validation."""


@dataclasses.dataclass
class SegmentationFields(AugmentationFields):
  """What training does to an image and its mask; the defaults are research/deeplab's.

  An image is scaled by one of `min_scale`, `min_scale + scale_step`, … `max_scale`.
  """

  min_scale: float = 0.5  # factor of the image's own size
  max_scale: float = 2.0
  scale_step: float = 0.25  # 0 draws any factor between them


@dataclasses.dataclass
class SegmentationOptions(SegmentationFields, hyperparams.Config):
  """`task.train_data.preprocessing_options` of a segmenter."""

  def check(self) -> None:
    """Raises a UserError if no scale can be drawn."""
    if not (0 < self.min_scale <= self.max_scale and self.scale_step >= 0):
      raise UserError(
        f"min_scale, max_scale and scale_step are {self.min_scale}, {self.max_scale} "
        f"and {self.scale_step}; they must be above 0, at least min_scale, and at "
        "least 0."
      )


MAX_IMAGE_SIZE = 8192  # pixels: 0.8 GB an image, before any layer


def check_minima(
  data: cfg.DataConfig,
  image_size: tuple[int, int],
  num_classes: int,
  others: Mapping[str, tuple[int, int]] | None = None,
) -> None:
  """Refuses numbers that no input can be built from, whatever its task.

  Args:
    data: Model Garden's fields of an input, and `InputFields`.
    image_size: Height and width of the images in pixels.
    num_classes: Number of classes.
    others: Further numbers by name: value and minimum of each.

  Raises:
    UserError: Naming the field, its value and what is allowed.
  """
  minima = {
    "global_batch_size": (data.global_batch_size, 1),
    "image height": (image_size[0], 1),
    "image width": (image_size[1], 1),
    "shuffle_buffer_size": (data.shuffle_buffer_size, 1),
    "autotune_ram_mib": (data.autotune_ram_mib, 1),
    "max_corrupt_records": (data.max_corrupt_records, 0),
    "num_classes": (num_classes, 2),  # with one, every prediction is right
    **(others or {}),
  }
  for name, (value, minimum) in minima.items():
    if value < minimum:
      raise UserError(f"{name} is {value}; it must be at least {minimum}.")
  if max(image_size) > MAX_IMAGE_SIZE:
    raise UserError(
      f"the images are {image_size[0]} x {image_size[1]}; height and width must be at "
      f"most {MAX_IMAGE_SIZE} pixels."
    )
