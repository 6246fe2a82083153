"""The configuration of the backbones, as `task.model.backbone.<name>`."""

import dataclasses

from official.modeling import hyperparams
from official.vision.configs import backbones

from mnv2_hpu.configs import oneof
from mnv2_hpu.modeling import nasnet_plans


@dataclasses.dataclass
class MobileNetV2(hyperparams.Config):
  """Fields of `modeling.mobilenet_v2.MobileNetV2`.

  Activation and batch norm are set by `norm_activation` of the model, the weight decay
  by the task.
  """

  width_multiplier: float = 1.0  # factor of all channels, above 0; the paper's alpha
  output_stride: int | None = None  # 8, 16 or 32 (also None): input size / last size
  finegrain_classification_mode: bool = True  # keep 1280 channels at widths below 1
  channel_divisor: int = 8  # channels are its multiples; 1 as in research/deeplab
  include_last_convolution: bool = True  # False: the last block's output is the last
  use_explicit_padding: bool = False  # pad as PyTorch's networks do, not SAME
  # Fewest of a layer; None: channel_divisor. 16 in the detectors of the TF1 API.
  min_channels: int | None = None
  output_intermediate_endpoints: bool = False  # also '<level>/expansion', '/depthwise'
  # Standard deviation of the normal, truncated at two standard deviations.
  kernel_initializer_stddev: float = 0.09
  trainable: bool = True  # False freezes the kernels and the batch norm

  def title(self) -> str:
    """Returns the network's name for people."""
    return f"MobileNetV2 {self.width_multiplier}"


@dataclasses.dataclass
class NASNet(hyperparams.Config):
  """Fields of `modeling.nasnet.NASNet`; None keeps the value of `model_id`.

  Activation and batch norm are set by `norm_activation` of the model (there, None is
  the network's own too), the weight decay by the task.
  """

  model_id: str = nasnet_plans.DEFAULT_IDS["nasnet"]  # nasnet_cifar, _mobile or _large
  stem: str | None = None  # imagenet, of stride 8, or cifar, of stride 1
  num_cells: int | None = None  # without stem and reduction cells
  num_conv_filters: int | None = None  # filters of the first cells
  stem_multiplier: float | None = None  # factor of the first convolution's channels
  filter_scaling_rate: float | None = None  # factor of the filters at each reduction
  # Whether NASNet's cell after a reduction reads what that reads second, not first.
  skip_reduction_layer_input: bool | None = None
  drop_path_keep_prob: float | None = None  # in the last cell, at the end
  total_training_steps: int | None = None  # steps in which it falls from 1
  zero_padded_pools: bool = False  # pools of stride 2 as those of Keras Applications
  trainable: bool = MobileNetV2.trainable

  def title(self) -> str:
    """Returns the network's name for people."""
    return self.model_id


@dataclasses.dataclass
class PNASNet(NASNet):
  """`NASNet` with PNASNet's cells."""

  model_id: str = nasnet_plans.DEFAULT_IDS["pnasnet"]  # pnasnet_mobile or _large


BACKBONES = {"mobilenet_v2": MobileNetV2, "nasnet": NASNet, "pnasnet": PNASNet}


def register() -> None:
  """Makes `BACKBONES` choices of every `task.model.backbone`. Idempotent."""
  for name, config_cls in BACKBONES.items():
    oneof.add_choice(backbones.Backbone, name, config_cls)


register()
