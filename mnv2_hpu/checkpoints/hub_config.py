"""What `config.json` of a hub says of MobileNetV2's weights beside it."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mnv2_hpu.errors import UserError

_MAX_BYTES = 16 << 20
# Mean and standard deviation of the network's input, for pixels from 0 to 1.
RANGES = {
  "inception": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
  "model_garden": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
# Values of Hugging Face's configuration that slim's network has.
SLIMS = {
  "expand_ratio": 6,
  "first_layer_is_expansion": True,
  "depth_divisible_by": 8,
  "min_depth": 8,
  "hidden_act": "relu6",
}


MAX_SIDE = 1 << 12  # pixels; the networks were trained with 96 to 224


class HubConfig(NamedTuple):
  """What the weights expect, where a file says it; else the library's default.

  Attributes:
    use_explicit_padding: As `MobileNetV2` takes it.
    norm_epsilon: As `MobileNetV2` takes it.
    output_stride: As `MobileNetV2` takes it.
    preprocessing: `inception` (pixels from -1 to 1) or `model_garden` (by ImageNet's
      mean and standard deviation).
    image_size: Side of the images it was trained with, in pixels.
    label_names: Name of each class; None where the file has none.
    central_fraction: Part of an image's height and width that evaluation looks at.
  """

  use_explicit_padding: bool
  norm_epsilon: float
  output_stride: int | None = None
  preprocessing: str = "inception"
  image_size: int = 224
  label_names: tuple[str, ...] | None = None
  central_fraction: float = 0.875  # slim's, and google's models on the hub


DEFAULTS = {
  "keras": HubConfig(False, 1e-3),
  "huggingface": HubConfig(False, 1e-3),
  "timm": HubConfig(True, 1e-5, preprocessing="model_garden"),
  "torchvision": HubConfig(True, 1e-5, preprocessing="model_garden"),
}


def read(folder: str, library: str) -> HubConfig:
  """Reads the configuration beside a file of weights.

  Args:
    folder: Folder of the file.
    library: Name in `DEFAULTS`, whose values count where nothing is said.

  Raises:
    UserError: If it describes another network, or cannot be read.
  """
  config = _read_json(os.path.join(folder, "config.json"))
  processor = _read_json(os.path.join(folder, "preprocessor_config.json"))
  try:
    if library == "huggingface" and config.get("model_type") == "mobilenet_v2":
      return _hugging_face(config, processor)
    if library == "timm" and "architecture" in config:
      return _timm(config)
    if library == "keras" and "image_size" in config:  # written by `library_files`
      names = config.get("label_names")
      return DEFAULTS["keras"]._replace(
        image_size=_side("image_size", config["image_size"]),
        label_names=tuple(map(str, names)) if names else None,
        central_fraction=_fraction(config.get("central_fraction", 0.875)),
      )
  except UserError:
    raise
  except (
    *(TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError),
  ) as error:
    raise UserError(
      f"config.json in {folder!r} has a value that cannot be used: {error!r}."
    ) from error
  return DEFAULTS[library]


def _read_json(path: str) -> dict[str, Any]:
  if not os.path.isfile(path):
    return {}
  try:
    with open(path, encoding="utf-8") as file:
      text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
      raise ValueError(f"it is longer than {_MAX_BYTES:,} bytes")
    content = json.loads(text)
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path!r} cannot be read: {error}.") from error
  if not isinstance(content, dict):
    raise UserError(f"{path!r} holds no JSON object.")
  return content


def _hugging_face(config: Mapping[str, Any], processor: Mapping[str, Any]) -> HubConfig:
  others = {k: config[k] for k, v in SLIMS.items() if config.get(k, v) != v}
  if others:
    name, value = next(iter(others.items()))
    raise UserError(
      f"config.json says {name} = {value!r}; MobileNetV2 as slim built it has "
      f"{SLIMS[name]!r}. These weights are of another network."
    )
  stride = int(config.get("output_stride", 32))
  tf_padding = config.get("tf_padding", True)
  if not isinstance(tf_padding, bool):
    raise ValueError(f"tf_padding is {tf_padding!r}, neither true nor false")
  return HubConfig(
    use_explicit_padding=not tf_padding,
    norm_epsilon=_positive("layer_norm_eps", config.get("layer_norm_eps", 1e-3)),
    output_stride=None if stride == 32 else stride,
    preprocessing=_preprocessing(
      processor.get("image_mean"), processor.get("image_std")
    ),
    image_size=_side("image_size", config.get("image_size", 224)),
    label_names=_label_names(config.get("id2label")),
    central_fraction=_central_fraction(processor),
  )


def _timm(config: Mapping[str, Any]) -> HubConfig:
  trained = config.get("pretrained_cfg") or {}
  names = config.get("label_names")
  return DEFAULTS["timm"]._replace(
    preprocessing=_preprocessing(
      trained.get("mean"), trained.get("std"), "model_garden"
    ),
    image_size=_side("input_size", (trained.get("input_size") or [3, 224, 224])[-1]),
    label_names=tuple(map(str, names)) if names else None,
  )


def _central_fraction(processor: Mapping[str, Any]) -> float:
  """Returns the part of the shorter side that Hugging Face's processor crops."""
  if not processor.get("do_center_crop", True):
    return 1.0
  resized, crop = processor.get("size") or {}, processor.get("crop_size") or {}
  if "shortest_edge" not in resized or "height" not in crop:
    return DEFAULTS["huggingface"].central_fraction
  return _fraction(
    min(1.0, crop["height"] / _positive("size", resized["shortest_edge"]))
  )


def _fraction(value: Any) -> float:
  return min(1.0, _positive("central_fraction", value))


def _side(name: str, value: Any) -> int:
  side = int(_positive(name, value))
  if not 1 <= side <= MAX_SIDE:
    raise ValueError(f"{name} is {value!r}, not 1 to {MAX_SIDE} pixels")
  return side


def _positive(name: str, value: Any) -> float:
  if isinstance(value, bool) or not 0 < float(value) < 1e9:
    raise ValueError(f"{name} is {value!r}, no number above 0")
  return float(value)


def _preprocessing(mean: Any, std: Any, default: str = "inception") -> str:
  if mean is None or std is None:
    return default
  for name, numbers in RANGES.items():
    given = [round(float(x), 3) for values in (mean, std) for x in values]
    if given == [x for values in numbers for x in values]:
      return name
  raise UserError(
    f"The weights expect pixels normalized by mean {mean} and deviation {std}; known "
    f"are {', '.join(f'{m} and {s} ({n})' for n, (m, s) in RANGES.items())}."
  )


def _label_names(by_id: Any) -> tuple[str, ...] | None:
  """Returns the names in order; None for those that transformers invents."""
  if not by_id:
    return None
  labels = {int(number): str(name) for number, name in by_id.items()}
  if sorted(labels) != list(range(len(labels))) or _are_invented(list(labels.items())):
    return None
  return tuple(labels[number] for number in range(len(labels)))


def _are_invented(labels: Sequence[tuple[int, str]]) -> bool:
  return all(name == f"LABEL_{number}" for number, name in labels)
