"""Weights of whole segmenters: TF1 checkpoints of research/deeplab, Hugging Face's."""

import dataclasses

from mnv2_hpu.checkpoints import (
  paths,
  pretrained,
  safe_tensors,
  slim,
  slim_architecture,
)
from mnv2_hpu.checkpoints.slim_architecture import SCOPE, DeepLabArchitecture
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import precision
from mnv2_hpu.modeling.deeplab import DeepLab
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

OUTPUT_STRIDE = 16  # what research/deeplab trains with; its checkpoints do not say it


@dataclasses.dataclass(frozen=True)
class SegmenterInfo:
  """What weights are, and what they expect: pixels from -1 to 1.

  Attributes:
    source: `deeplab` (a checkpoint of TensorFlow 1) or `huggingface`.
    path: File, or prefix of files, that was read.
    architecture: The network above the backbone.
    width_multiplier: Factor of the channels of every layer.
    channel_divisor: Number whose multiples the backbone's channels are.
    use_explicit_padding: Whether strided convolutions pad as PyTorch's do.
    norm_epsilon: Added to the batch variance, in the backbone.
    output_stride: Input size / size of the last features.
    label_names: Name of each class; None where the source has none.
    global_step: Steps that it was trained, where known.
  """

  source: str
  path: str
  architecture: DeepLabArchitecture
  width_multiplier: float
  channel_divisor: int = 8
  use_explicit_padding: bool = False
  norm_epsilon: float = 1e-3
  output_stride: int = OUTPUT_STRIDE
  label_names: tuple[str, ...] | None = None
  global_step: int | None = None

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return self.architecture.num_classes


def is_segmenter(path: str) -> bool:
  """Whether there are weights of a segmenter's head.

  Args:
    path: A file or a folder, as `load_segmenter` takes it.

  Raises:
    UserError: If there are no weights at all.
  """
  file = pretrained.find_file(path)
  if file is not None:
    return safe_tensors.is_safetensors(file) and bool(
      safe_tensors.segmentation_head(safe_tensors.read(file))
    )
  return (
    slim_architecture.infer_deeplab(paths.shapes(paths.find_checkpoint(path)))
    is not None
  )


def load_segmenter(
  path: str, output_stride: int | None = None
) -> tuple[DeepLab, SegmenterInfo]:
  """Loads a whole segmenter, its head included.

  Args:
    path: A TF1 checkpoint of research/deeplab, or safetensors of Hugging Face's
      `MobileNetV2ForSemanticSegmentation`; or a folder with one of them.
    output_stride: 8 or 16, which any of them can be used with; None is what
      config.json says, or else `OUTPUT_STRIDE`.

  Returns:
    The network, which maps images in [-1, 1] to `{"logits": …}`, both float32; and what
    the weights are and expect.

  Raises:
    UserError: If nothing there can be read, or it is another network.
  """
  file = pretrained.find_file(path)
  if file is None:
    return _load_deeplab(path, output_stride or OUTPUT_STRIDE)
  head = (
    safe_tensors.segmentation_head(safe_tensors.read(file))
    if safe_tensors.is_safetensors(file)
    else {}
  )
  if not head:
    raise UserError(
      f"{file!r} holds no segmentation head of Hugging Face's. "
      "checkpoints.load_pretrained reads classifiers and their backbones."
    )
  values, found = pretrained.read_file(file)
  values = {k: v for k, v in values.items() if not k.startswith(f"{SCOPE}/Conv_1/")}
  shapes = {name: value.shape for name, value in head.items()}
  architecture = slim_architecture.infer_deeplab(shapes)
  if architecture is None:
    raise UserError(f"{file!r} has a segmentation head without its classifier.")
  info = SegmenterInfo(
    "huggingface",
    file,
    architecture,
    found.width_multiplier,
    use_explicit_padding=found.use_explicit_padding,
    norm_epsilon=found.norm_epsilon,
    output_stride=output_stride or found.output_stride or 32,
    label_names=found.label_names,
  )
  model = _build(info)
  pretrained.assign(file, model, values | head)
  return model, info


def _load_deeplab(path: str, output_stride: int) -> tuple[DeepLab, SegmenterInfo]:
  path = paths.find_checkpoint(path)
  shapes = paths.shapes(path)
  architecture = slim_architecture.infer_deeplab(shapes)
  if architecture is None:
    raise UserError(
      f"The checkpoint {path!r} is none of research/deeplab's: it has no "
      "logits/semantic/weights. checkpoints.load_pretrained reads classifiers."
    )
  width, divisor = slim_architecture.infer_backbone(shapes)
  info = SegmenterInfo(
    "deeplab", path, architecture, width, divisor, output_stride=output_stride
  )
  model = _build(info)
  read = slim.load_slim_checkpoint(model, path, weights="raw")
  return model, dataclasses.replace(info, global_step=read.global_step)


def _build(info: SegmenterInfo) -> DeepLab:
  with precision.full_precision():
    backbone = MobileNetV2(
      info.width_multiplier,
      output_stride=info.output_stride,
      input_specs=keras.layers.InputSpec(shape=[None, None, None, 3]),
      use_explicit_padding=info.use_explicit_padding,
      channel_divisor=info.channel_divisor,
      include_last_convolution=False,
      norm_epsilon=info.norm_epsilon,
      output_intermediate_endpoints=True,
    )
    return DeepLab(backbone, **dataclasses.asdict(info.architecture))
