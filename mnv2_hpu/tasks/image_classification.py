"""Image classification: Model Garden's task with this project's input and averaging."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory
from official.vision.configs import image_classification as upstream_cfg
from official.vision.modeling import backbones, classification_model
from official.vision.tasks import image_classification as upstream

from mnv2_hpu.compat import keras
from mnv2_hpu.configs import image_classification as exp_cfg
from mnv2_hpu.dataloaders import classification_input, record_check, record_files
from mnv2_hpu.dataloaders.inception_preprocessing import PreprocessingOptions
from mnv2_hpu.dataloaders.input_options import InputOptions
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import step_dropout
from mnv2_hpu.optimization import exponential_moving_average

# Fields of Model Garden's DataConfig that mean nothing to this project's input.
UNSUPPORTED_FIELDS = (
  "tfds_name",
  "enable_tf_data_service",
  "file_type",
  "is_multilabel",
  "aug_type",
  "three_augment",
  "color_jitter",
  "random_erasing",
  "mixup_and_cutmix",
  "repeated_augment",
  "tf_resize_method",
)


@contextlib.contextmanager
def _float32_policy() -> Iterator[None]:
  """Layers built inside compute in float32, whatever the global policy."""
  policy = keras.mixed_precision.global_policy()
  keras.mixed_precision.set_global_policy("float32")
  try:
    yield
  finally:
    keras.mixed_precision.set_global_policy(policy)


def input_options(
  data: exp_cfg.DataConfig, model: exp_cfg.ImageClassificationModel
) -> InputOptions:
  """Returns what the input pipeline needs to know of a data and a model config."""
  height, width = model.input_size[:2]
  least_area, greatest_area = data.crop_area_range
  least_ratio, greatest_ratio = data.crop_aspect_ratio_range
  return InputOptions(
    input_path=data.input_path,
    global_batch_size=data.global_batch_size,
    is_training=bool(data.is_training),
    image_size=(height, width),
    num_classes=model.num_classes,
    num_examples=data.num_examples or None,
    shuffle_buffer_size=data.shuffle_buffer_size,
    cycle_length=data.cycle_length,
    seed=data.seed,
    deterministic=data.deterministic is not False,
    cache=data.cache,
    max_corrupt_records=data.max_corrupt_records,
    autotune_ram_mib=data.autotune_ram_mib,
    prefetch=data.prefetch_buffer_size,
    image_field_key=data.image_field_key,
    label_field_key=data.label_field_key,
    preprocessing=data.preprocessing,
    preprocessing_options=PreprocessingOptions(
      fast_mode=data.fast_mode,
      crop=data.aug_crop,
      area_range=(least_area, greatest_area),
      aspect_ratio_range=(least_ratio, greatest_ratio),
      min_object_covered=data.crop_min_object_covered,
      flip=data.aug_rand_hflip,
      color_distortion=data.color_distortion,
      reduced_decoding=data.reduced_decoding,
      central_fraction=data.center_crop_fraction,
    ),
  )


@task_factory.register_task_cls(exp_cfg.ImageClassificationTask)
class ImageClassificationTask(upstream.ImageClassificationTask):
  """Model Garden's classification task, with what slim's recipe needs beside it.

  Images are float32 `[batch, height, width, 3]`, labels int32 `[batch]`; a label of -1
  marks padding of the last evaluation batch and counts nowhere.

  Attributes:
    start_step: step at which training resumes, to be set before its input is built:
      the input continues there as if training had never stopped.
    repeat_evaluation: whether the evaluation input starts again after its last batch,
      to be set likewise.
    evaluation_steps: steps in which an evaluation sees each image once; None until the
      evaluation input is built.
  """

  start_step: int = 0
  repeat_evaluation: bool = False
  evaluation_steps: int | None = None

  _optimizer: Any = None

  def build_model(self) -> keras.Model:
    """Builds the network; its pooling, dropout and logits compute in float32.

    Initial weights and dropout follow from `train_data.seed`.
    """
    # TensorFlow's seed alone does not reach Keras' initializers.
    keras.utils.set_random_seed(self.task_config.train_data.seed)
    config = self.task_config.model
    decay = self.task_config.losses.l2_weight_decay
    # Keras' l2(x) is x times the sum of squares; slim's is half of that.
    regularizer = keras.regularizers.l2(decay / 2.0) if decay else None
    input_specs = keras.layers.InputSpec(shape=[None, *config.input_size])
    backbone = backbones.factory.build_backbone(
      input_specs=input_specs,
      backbone_config=config.backbone,
      norm_activation_config=config.norm_activation,
      l2_regularizer=regularizer,
    )
    stddev = config.backbone.get().kernel_initializer_stddev
    with _float32_policy():
      model = classification_model.ClassificationModel(
        backbone=backbone,
        num_classes=config.num_classes,
        input_specs=input_specs,
        dropout_rate=config.dropout_rate,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=stddev),
        kernel_regularizer=regularizer,
      )
    step_dropout.depend_on_step(model, self.task_config.train_data.seed)
    if self.task_config.freeze_backbone:
      model.backbone.trainable = False
    return model

  def train_step(
    self,
    inputs: tuple[tf.Tensor, tf.Tensor],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    metrics: list[keras.metrics.Metric] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Does Model Garden's step, with the dropout that belongs to it."""
    with step_dropout.at_step(optimizer.iterations):
      return super().train_step(inputs, model, optimizer, metrics)

  def create_optimizer(  # upstream's is a classmethod; this one is remembered
    self,
    optimizer_config: cfg.OptimizationConfig,
    runtime_config: cfg.RuntimeConfig | None = None,
    dp_config: Any = None,
  ) -> keras.optimizers.Optimizer:
    """Builds the optimizer, wrapped by this project's moving average if configured."""
    self._optimizer = exponential_moving_average.wrap_with_moving_average(
      super().create_optimizer(
        optimizer_config.replace(ema=None), runtime_config, dp_config
      ),
      optimizer_config.ema,
    )
    return self._optimizer

  def initialize(self, model: keras.Model) -> None:
    """Reads `init_checkpoint`, and starts the averages from what was read."""
    super().initialize(model)
    average = exponential_moving_average.ExponentialMovingAverage
    if isinstance(self._optimizer, average):
      self._optimizer.reset_averages()

  def build_inputs(
    self,
    params: exp_cfg.DataConfig,
    input_context: tf.distribute.InputContext | None = None,
  ) -> tf.data.Dataset:
    """Builds the input of one worker; see `dataloaders.classification_input`."""
    options = dataclasses.replace(
      input_options(params, self.task_config.model),
      start_step=self.start_step,
      repeat_evaluation=self.repeat_evaluation,
    )
    if not options.is_training:
      examples = classification_input.count_examples(options)
      options = dataclasses.replace(options, num_examples=examples)
      self.evaluation_steps = classification_input.evaluation_steps(
        examples,
        options.global_batch_size,
        input_context or tf.distribute.InputContext(),
      )
    return classification_input.build_dataset(options, input_context)

  def _check_fields(self) -> None:
    """Refuses fields of Model Garden's that this task's input would ignore."""
    stock = upstream_cfg.DataConfig()
    for name in ("train_data", "validation_data"):
      data = getattr(self.task_config, name)
      changed = [f for f in UNSUPPORTED_FIELDS if getattr(data, f) != getattr(stock, f)]
      if changed:
        raise UserError(
          f"task.{name}.{changed[0]} is {getattr(data, changed[0])!r}, which "
          "mobilenet_v2_classification does not use. Leave it at "
          f"{getattr(stock, changed[0])!r}, or use Model Garden's own experiments with "
          "task.model.backbone.type=mobilenet_v2."
        )

  def check_inputs(self, train: bool, evaluate: bool) -> None:
    """Looks at the files and their first records, before anything is built on them.

    Raises:
      UserError: if files are missing or damaged, or hold labels outside the classes.
    """
    self._check_fields()
    config = self.task_config
    used = [config.train_data] * train + [config.validation_data] * evaluate
    for data in used:
      record_check.check_records(
        record_files.match_files(data.input_path),
        config.model.num_classes,
        label_key=data.label_field_key,
        image_key=data.image_field_key,
      )

  def build_metrics(self, training: bool = True) -> list[keras.metrics.Metric]:
    """Top-1 and top-k accuracy; for evaluation also the loss, weighted by example."""
    metrics = super().build_metrics(training)
    if not training:
      metrics.append(keras.metrics.Mean("validation_loss"))
    return metrics

  def validation_step(
    self,
    inputs: tuple[tf.Tensor, tf.Tensor],
    model: keras.Model,
    metrics: list[keras.metrics.Metric] | None = None,
  ) -> dict[str, tf.Tensor]:
    """Updates the metrics by one batch in which padding weighs nothing.

    The loss is a metric here, not a log: Model Garden would average it over batches,
    whose real sizes differ.
    """
    images, labels = inputs
    weights = tf.cast(labels >= 0, tf.float32)
    one_hot = tf.one_hot(labels, self.task_config.model.num_classes)
    logits = tf.cast(self.inference_step(images, model), tf.float32)
    loss = keras.losses.categorical_crossentropy(
      one_hot,
      logits,
      from_logits=True,
      label_smoothing=self.task_config.losses.label_smoothing,
    )
    if model.losses:
      loss += tf.add_n(model.losses)
    for metric in metrics or ():
      if metric.name == "validation_loss":
        metric.update_state(loss, sample_weight=weights)
      else:
        metric.update_state(one_hot, logits, sample_weight=weights)
    return {}
