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
  use_explicit_padding: bool = False  # pad as PyTorch's networks do, not SAME
  min_channels: int = (
    8  # fewest of a layer; 16 under the Object Detection API's SSDLite
  )
  output_intermediate_endpoints: bool = False  # also '<level>/expansion', '/depthwise'
  # Standard deviation of the normal, truncated at two standard deviations.
  kernel_initializer_stddev: float = 0.09
  trainable: bool = True  # False freezes the kernels and the batch norm


def register() -> None:
  """Makes `mobilenet_v2` a choice of every `task.model.backbone`. Idempotent."""
  oneof.add_choice(backbones.Backbone, "mobilenet_v2", MobileNetV2)


register()
