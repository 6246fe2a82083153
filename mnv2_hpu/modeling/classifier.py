"""The classification model over a backbone, with auxiliary logits where it has some."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.vision.modeling import classification_model

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import precision

LOGITS, AUXILIARY_LOGITS = "logits", "auxiliary_logits"


class AuxiliaryClassificationModel(keras.Model):
  """Model Garden's `ClassificationModel` with a second classifier for the training.

  Maps images `[batch, height, width, channels]` to logits `[batch, num_classes]`;
  called for training, to a dictionary of `logits` and `auxiliary_logits` of that shape.
  """

  def __init__(
    self, model: classification_model.ClassificationModel, num_classes: int
  ) -> None:
    """Adds the second classifier.

    Args:
      model: Classification model, whose backbone has `auxiliary_logits`.
      num_classes: Number of logits.

    Raises:
      UserError: If the backbone has none, or none at this size of the images.
    """
    backbone = model.backbone
    if not hasattr(backbone, "auxiliary_logits"):
      raise UserError(
        f"auxiliary_loss_weight is above 0, but the backbone {backbone.name!r} has no "
        "auxiliary logits. Set auxiliary_loss_weight = 0, or use nasnet or pnasnet."
      )
    (endpoints,) = (
      layer.get_output_at(-1) for layer in model.layers if layer is backbone
    )
    outputs = {
      LOGITS: model.output,
      AUXILIARY_LOGITS: backbone.auxiliary_logits(endpoints, num_classes),
    }
    super().__init__(inputs=model.input, outputs=outputs, name=model.name)
    self._backbone = backbone

  def call(
    self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
  ) -> tf.Tensor | dict[str, tf.Tensor]:
    """Returns the logits, in training with the auxiliary ones beside them."""
    outputs = super().call(inputs, training=training, mask=mask)
    return outputs if training else outputs[LOGITS]

  @property
  def backbone(self) -> keras.Model:
    """The network below both classifiers."""
    return self._backbone

  @property
  def checkpoint_items(self) -> Mapping[str, keras.Model]:
    """What checkpoints hold beside the model."""
    return {"backbone": self._backbone}


def build_classifier(
  backbone: keras.Model,
  num_classes: int,
  input_specs: keras.layers.InputSpec,
  dropout_rate: float,
  kernel_regularizer: keras.regularizers.Regularizer | None,
  has_auxiliary_logits: bool = False,
) -> keras.Model:
  """Builds a classification model; what is above the backbone computes in float32.

  Args:
    backbone: Backbone of this project, whose initializer its kernels share.
    num_classes: Number of logits.
    input_specs: Shape of the images, `[batch, height, width, channels]`.
    dropout_rate: Fraction of the pooled features that training sets to zero.
    kernel_regularizer: Regularizer of the logits' kernel.
    has_auxiliary_logits: Whether training yields those of the backbone too.

  Raises:
    UserError: If the backbone has no auxiliary logits though they are wanted.
  """
  initializer = backbone.kernel_initializer
  with precision.full_precision():
    model = classification_model.ClassificationModel(
      backbone=backbone,
      num_classes=num_classes,
      input_specs=input_specs,
      dropout_rate=dropout_rate,
      kernel_initializer=type(initializer).from_config(initializer.get_config()),
      kernel_regularizer=kernel_regularizer,
    )
    if has_auxiliary_logits:
      return AuxiliaryClassificationModel(model, num_classes)
  return model
