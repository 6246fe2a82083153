"""The configuration of the backbone, as `task.model.backbone.mobilenet_v2`."""

import dataclasses

from official.modeling import hyperparams
from official.vision.configs import backbones

from mnv2_hpu.configs import oneof


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


def register() -> None:
  """Makes `mobilenet_v2` a choice of every `task.model.backbone`. Idempotent."""
  oneof.add_choice(backbones.Backbone, "mobilenet_v2", MobileNetV2)


register()
