"""NASNet-A (arXiv 1707.07012) and PNASNet-5 (arXiv 1712.00559) as backbones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.modeling import hyperparams, tf_utils
from official.vision.modeling.backbones import factory

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import nasnet_cells, nasnet_plans

# What a configuration may change of a network; its norm has fields of its own.
_CHANGEABLE = (
  *("stem", "num_cells", "num_conv_filters", "stem_multiplier", "filter_scaling_rate"),
  *("skip_reduction_layer_input", "drop_path_keep_prob", "total_training_steps"),
)
# Filters of the auxiliary head's two convolutions, and its pool (paper, appendix A.2).
_AUXILIARY_CHANNELS, _AUXILIARY_POOL, _AUXILIARY_STRIDE = (128, 768), 5, 3


@dataclasses.dataclass(frozen=True)
class _Origin:
  """What a network was built from; Keras would track a bare tuple or dictionary."""

  plan: nasnet_plans.Plan
  arguments: dict[str, Any]


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class NASNet(keras.Model):
  """NASNet or PNASNet without its classifier, as a backbone of Model Garden.

  Maps images `[batch, height, width, channels]` of any size to a dictionary of features
  `[batch, ceil(height / 2**l), ceil(width / 2**l), c]` in the compute dtype; after the
  ImageNet stem, whose first convolution pads nothing, sizes of remainder 1 or 2 by 4
  give one less where 2**l divides what is left. Its keys are Model Garden's:

  * `"2"` to `"5"` (`"0"` to `"2"` with the CIFAR stem): the last cell at stride 2**l
    that is no reduction cell, concatenated, before any activation;
  * the next level, `"6"` (`"3"`): the activation of the last cell, for classification.

  Layers are named after slim's scopes: `conv0`, `cell_stem_0/1x1`,
  `cell_3/comb_iter_0/left/separable_5x5_1`, `reduction_cell_0/beginning_bn`; the output
  of a cell is that of the layer `cell_3/cell_output`.
  """

  # Scopes in slim's checkpoints; see `checkpoints.variables`.
  slim_scope = ""
  slim_logits = "final_layer/FC"

  def __init__(
    self,
    model_id: str = "nasnet_mobile",
    input_specs: keras.layers.InputSpec | None = None,
    hparams: Mapping[str, Any] | None = None,
    zero_padded_pools: bool = False,
    activation: str = "relu",
    use_sync_bn: bool = False,
    norm_momentum: float | None = None,
    norm_epsilon: float | None = None,
    kernel_initializer: str | keras.initializers.Initializer | None = None,
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    trainable: bool = True,
    **kwargs: Any,
  ) -> None:
    """Builds the network.

    Args:
      model_id: A key of `nasnet_plans.HPARAMS`.
      input_specs: Shape of the images; None is `[None, None, None, 3]`.
      hparams: Fields of `nasnet_plans.Hparams` that differ from those of `model_id`.
      zero_padded_pools: Whether pools of stride 2 count zeros around the image, as
        those of Keras Applications' networks do.
      activation: Activation before convolutions; slim's bounded one is `relu6`.
      use_sync_bn: Whether batch statistics are those of all replicas.
      norm_momentum: Momentum of the moving batch statistics; None is the network's.
      norm_epsilon: Epsilon added to the batch variance; None is the network's.
      kernel_initializer: Initializer of all kernels; None is slim's, `FanOutNormal`.
      kernel_regularizer: Regularizer of all kernels, depthwise ones too.
      trainable: False freezes all weights and the batch statistics.
      **kwargs: Keyword arguments of `keras.Model`, such as `name`.

    Raises:
      UserError: If the network is unknown or one of its values impossible.
    """
    if input_specs is None:
      input_specs = keras.layers.InputSpec(shape=[None, None, None, 3])
    changes = {
      **(hparams or {}),
      "norm_momentum": norm_momentum,
      "norm_epsilon": norm_epsilon,
    }
    values = nasnet_plans.hparams(None, model_id, **changes)
    initializer = (
      nasnet_cells.FanOutNormal()
      if kernel_initializer is None
      else keras.initializers.get(kernel_initializer)
    )
    self._origin = _Origin(
      nasnet_plans.make_plan(values),
      {
        "model_id": model_id,
        "hparams": dict(hparams or {}),
        "zero_padded_pools": zero_padded_pools,
        "activation": activation,
        "use_sync_bn": use_sync_bn,
        "norm_momentum": norm_momentum,
        "norm_epsilon": norm_epsilon,
      },
    )
    self._input_specs = input_specs
    self._layers_of = nasnet_cells.Layers(
      initializer,
      keras.regularizers.get(kernel_regularizer),
      tf_utils.get_activation(activation),
      values.norm_momentum,
      values.norm_epsilon,
      use_sync_bn,
      zero_padded_pools,
    )
    images = keras.Input(shape=input_specs.shape[1:])
    outputs = self._connect(images)
    endpoints = {str(level): outputs[name] for level, name in self.plan.outputs.items()}
    # As in Model Garden: decoders do not read the classifier's features.
    self._output_specs = {key: tensor.shape for key, tensor in endpoints.items()}
    last = self.plan.cells[-1]
    endpoints[str(last.level + 1)] = self._layers_of.activate(
      outputs[last.scope], "final_layer/relu"
    )
    super().__init__(inputs=images, outputs=endpoints, **kwargs)
    self.trainable = trainable  # by the setter, which also tells the batch norms

  def _connect(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the outputs of the first convolution and of all cells by scope."""
    values = self.plan.hparams
    scope, norm_scope = self.plan.first
    is_imagenet = values.stem == "imagenet"
    x = self._layers_of.convolve(
      images,
      self.plan.first_channels,
      scope,
      size=3,
      stride=2 if is_imagenet else 1,
      padding="valid" if is_imagenet else "same",
    )
    outputs = {scope: self._layers_of.normalize(x, norm_scope)}
    x = outputs[scope]
    for number, cell in enumerate(self.plan.cells):
      x = self._layers_of.apply_cell(
        cell,
        x,
        outputs[cell.previous] if cell.previous else None,
        self.plan.keep_prob(number),
        values.total_training_steps,
      )
      outputs[cell.scope] = x
    return outputs

  def auxiliary_logits(
    self, endpoints: Mapping[str, tf.Tensor], num_classes: int
  ) -> tf.Tensor:
    """Adds the auxiliary classifier (paper, appendix A.2) to a model of this backbone.

    It reads the cell before the second reduction: 5x5 average pool of stride 3, 1x1
    convolution, a convolution over all that is left, and a dense layer.

    Args:
      endpoints: What the backbone has returned, of a fixed size.
      num_classes: Number of logits.

    Returns:
      Logits, `[batch, num_classes]`.

    Raises:
      UserError: If the size of the features is not fixed, or below 5.
    """
    level = self.plan.auxiliary_level
    x, layers = endpoints[str(level)], self._layers_of
    sides = x.shape[1:3]
    if None in sides or min(sides) < _AUXILIARY_POOL:
      raise UserError(
        f"The auxiliary head needs features of a fixed size from {_AUXILIARY_POOL} x "
        f"{_AUXILIARY_POOL}; at stride {2**level} of this input they are "
        f"{' x '.join(map(str, sides))}. Give larger images, or leave the head out: "
        "auxiliary_loss_weight = 0."
      )
    scope = f"{self.slim_auxiliary}/aux_logits"
    first, second = _AUXILIARY_CHANNELS
    x = layers.activate(x, f"{scope}/relu")
    pool = keras.layers.AveragePooling2D(
      _AUXILIARY_POOL, _AUXILIARY_STRIDE, name=f"{scope}/pool"
    )
    x = layers.convolve(pool(x), first, f"{scope}/proj")
    x = layers.activate(layers.normalize(x, f"{scope}/aux_bn0"), f"{scope}/relu_0")
    size = tuple(x.shape[1:3])
    x = layers.convolve(x, second, f"{scope}/Conv", size, padding="valid")
    x = layers.activate(layers.normalize(x, f"{scope}/aux_bn1"), f"{scope}/relu_1")
    return keras.layers.Dense(
      num_classes,
      kernel_initializer=tf_utils.clone_initializer(layers.initializer),
      kernel_regularizer=layers.regularizer,
      name=f"{scope}/FC",
    )(keras.layers.Flatten(name=f"{scope}/flatten")(x))

  @property
  def plan(self) -> nasnet_plans.Plan:
    """Its cells."""
    return self._origin.plan

  @property
  def slim_auxiliary(self) -> str:
    """Scope of the auxiliary classifier."""
    cell = self.plan.outputs[self.plan.auxiliary_level]
    return f"aux_{cell.removeprefix('cell_')}"

  @property
  def kernel_initializer(self) -> keras.initializers.Initializer:
    """The initializer of all kernels, for heads that share it."""
    return self._layers_of.initializer

  @property
  def output_specs(self) -> Mapping[str, tf.TensorShape]:
    """Shapes of the outputs by key, without the classifier's."""
    return self._output_specs

  def get_config(self) -> dict[str, Any]:
    """Returns the constructor's arguments, in a form that JSON can hold."""
    layers = self._layers_of
    return {
      "name": self.name,
      "trainable": self.trainable,
      "input_specs": self._input_specs.get_config(),
      "kernel_initializer": keras.initializers.serialize(layers.initializer),
      "kernel_regularizer": keras.regularizers.serialize(layers.regularizer),
      **self._origin.arguments,
    }

  @classmethod
  def from_config(
    cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
  ) -> "NASNet":
    """Builds the network that `get_config` describes."""
    input_specs = keras.layers.InputSpec.from_config(config["input_specs"])
    with keras.utils.custom_object_scope(custom_objects or {}):
      return cls(**{**config, "input_specs": input_specs})


def _build(
  input_specs: keras.layers.InputSpec,
  backbone_config: hyperparams.OneOfConfig,
  norm_activation_config: hyperparams.Config,
  l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> NASNet:
  """Builds the backbone from its configuration (`configs.backbones.NASNet`).

  Args:
    input_specs: Shape of the images, `[batch, height, width, channels]`.
    backbone_config: One-of config whose choice is `nasnet` or `pnasnet`.
    norm_activation_config: Config with `activation`, `use_sync_bn`, `norm_momentum`
      and `norm_epsilon`; of the latter two, None is the network's own.
    l2_regularizer: Regularizer of all kernels.
  """
  config = backbone_config.get()
  # Refuses a network of the other family.
  nasnet_plans.hparams(backbone_config.type, config.model_id)
  return NASNet(
    config.model_id,
    input_specs,
    {name: getattr(config, name) for name in _CHANGEABLE},
    config.zero_padded_pools,
    trainable=config.trainable,
    kernel_regularizer=l2_regularizer,
    **{
      name: getattr(norm_activation_config, name)
      for name in ("activation", "use_sync_bn", "norm_momentum", "norm_epsilon")
    },
  )


for _family in nasnet_plans.DEFAULT_IDS:
  factory.register_backbone_builder(_family)(_build)
