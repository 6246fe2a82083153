"""Writes a classifier's weights as files that other libraries load."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from mnv2_hpu.checkpoints import hub_config, layer_names, safe_tensors, variables
from mnv2_hpu.checkpoints.slim_architecture import SCOPE
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import block_specs

_RESCALE = 1 / 255  # mean and deviation are those of pixels from 0 to 1


class Network(NamedTuple):
  """A classifier to be written.

  Attributes:
    model: Model Garden's classification model over MobileNetV2.
    preprocessing: Name in `hub_config.RANGES`.
    image_size: Side of its images, in pixels.
    label_names: Name of each class; None where there is none.
    central_fraction: Part of an image's height and width that evaluation looks at.
  """

  model: keras.Model
  preprocessing: str
  image_size: int
  label_names: Sequence[str] | None
  central_fraction: float

  @property
  def config(self) -> dict[str, Any]:
    """Arguments of the backbone."""
    return self.model.backbone.get_config()

  @property
  def num_classes(self) -> int:
    """Number of logits."""
    return int(self.model.output_shape[-1])


def _require(library: str, network: Network, **values: Any) -> None:
  """Refuses what a library's network cannot express."""
  config = network.config
  for name, value in {**values, "activation": "relu6"}.items():
    given = config[name] or (32 if name == "output_stride" else config[name])
    if given != value:
      raise UserError(
        f"{library} cannot express this network: its {name} is {value!r}, this one has "
        f"{given!r}. Leave {library!r} out of --formats."
      )


def _check_rounding(
  library: str, network: Network, scale: Callable[[int, float], float]
) -> None:
  """Refuses a width that the library rounds to other channels."""
  width = network.config["width_multiplier"]
  for spec in block_specs.BLOCK_SPECS:
    theirs = block_specs.round_channels(scale(spec.channels, width))
    ours = block_specs.round_channels(spec.channels * width)
    if theirs != ours:
      raise UserError(
        f"{library} cannot express width_multiplier = {width}: it rounds "
        f"{spec.channels} channels to {theirs}, not {ours}. Leave {library!r} out of "
        "--formats."
      )


def _tensors(network: Network, library: str) -> dict[str, np.ndarray]:
  """Returns the variables by a PyTorch library's names, in its layout."""
  ours = {
    name.removeprefix(f"{SCOPE}/"): variable.numpy()
    for name, variable in variables.by_slim_name(network.model).items()
  }
  prefix = safe_tensors.PREFIX if library == "huggingface" else ""
  tensors = {}
  for name, slims in layer_names.torch_names(library).items():
    full = name if name.startswith("classifier") else f"{prefix}{name}"
    tensors[full] = safe_tensors.from_slim(slims, ours[slims])
    if name.endswith(".running_var"):
      counter = full.replace(".running_var", safe_tensors.COUNTER)
      tensors[counter] = np.zeros([], np.int64)
  return tensors


def _write_json(path: str, content: Mapping[str, Any]) -> None:
  with open(path, "w", encoding="utf-8") as file:
    json.dump(content, file, indent=2, ensure_ascii=False)
    file.write("\n")


def _write_tensors(path: str, tensors: Mapping[str, np.ndarray]) -> None:
  # Not `ascontiguousarray`, which gives a scalar a dimension.
  whole = {name: np.array(value, order="C") for name, value in tensors.items()}
  # Not `save_file`, whose files nobody else may read.
  with open(path, "wb") as file:
    file.write(safetensors.numpy.save(whole, metadata={"format": "pt"}))


def _hugging_face(network: Network, folder: str) -> None:
  config = network.config
  _require("huggingface", network)
  _check_rounding("huggingface", network, lambda c, width: round(c * width))
  names = network.label_names or [f"LABEL_{i}" for i in range(network.num_classes)]
  size = network.image_size
  mean, deviation = hub_config.RANGES[network.preprocessing]
  _write_tensors(
    os.path.join(folder, "model.safetensors"), _tensors(network, "huggingface")
  )
  _write_json(
    os.path.join(folder, "config.json"),
    {
      "architectures": ["MobileNetV2ForImageClassification"],
      "model_type": "mobilenet_v2",
      **hub_config.SLIMS,
      "depth_multiplier": config["width_multiplier"],
      "finegrained_output": config["finegrain_classification_mode"],
      "image_size": size,
      "num_channels": 3,
      "output_stride": config["output_stride"] or 32,
      "tf_padding": not config["use_explicit_padding"],
      "layer_norm_eps": config["norm_epsilon"],
      "classifier_dropout_prob": 0.2,
      "id2label": {str(i): name for i, name in enumerate(names)},
      "label2id": {name: i for i, name in enumerate(names)},
      "torch_dtype": "float32",
    },
  )
  _write_json(
    os.path.join(folder, "preprocessor_config.json"),
    {
      "image_processor_type": "MobileNetV2ImageProcessor",
      "do_resize": True,
      "size": {"shortest_edge": round(size / network.central_fraction)},
      "resample": 2,  # bilinear
      "do_center_crop": True,
      "crop_size": {"height": size, "width": size},
      "do_rescale": True,
      "rescale_factor": _RESCALE,
      "do_normalize": True,
      "image_mean": mean,
      "image_std": deviation,
    },
  )


def _of_pytorch(library: str) -> Callable[[Network, str], None]:
  def write(network: Network, folder: str) -> None:
    _require(
      library,
      network,
      use_explicit_padding=True,
      norm_epsilon=1e-5,
      output_stride=32,
      finegrain_classification_mode=True,
    )
    _write_tensors(
      os.path.join(folder, "model.safetensors"), _tensors(network, library)
    )
    if library == "timm":
      width = round(100 * network.config["width_multiplier"])
      mean, deviation = hub_config.RANGES[network.preprocessing]
      content = {
        "architecture": f"mobilenetv2_{width:03d}",
        "num_classes": network.num_classes,
        "pretrained_cfg": {
          "input_size": [3, network.image_size, network.image_size],
          "mean": mean,
          "std": deviation,
          "interpolation": "bilinear",
          "crop_pct": network.central_fraction,
        },
      }
      if network.label_names:
        content["label_names"] = list(network.label_names)
      _write_json(os.path.join(folder, "config.json"), content)

  return write


def _keras(network: Network, folder: str) -> None:
  config = network.config
  _require(
    "keras",
    network,
    use_explicit_padding=False,
    norm_epsilon=1e-3,
    output_stride=32,
    finegrain_classification_mode=True,
  )
  _check_rounding("keras", network, lambda c, width: int(c * width))
  size = network.image_size
  model = keras.applications.MobileNetV2(
    input_shape=(size, size, 3),
    alpha=config["width_multiplier"],
    weights=None,
    classes=network.num_classes,
  )
  ours = {
    name.removeprefix(f"{SCOPE}/"): variable.numpy()
    for name, variable in variables.by_slim_name(network.model).items()
  }
  for place in layer_names.places():
    kernel, norm = layer_names.keras_layer(place)
    leaf = "depthwise_weights" if place.part == "depthwise" else "weights"
    model.get_layer(kernel).set_weights([ours[f"{place.scope}/{leaf}"]])
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    values = [ours[f"{place.scope}/BatchNorm/{leaf}"] for leaf in leaves]
    model.get_layer(norm).set_weights(values)
  logits = [ours[f"{variables.LOGITS}/{leaf}"] for leaf in ("weights", "biases")]
  model.layers[-1].set_weights(logits)
  model.save_weights(os.path.join(folder, "weights.h5"))
  # Keras reads no such file; an import does.
  content = {
    "image_size": size,
    "label_names": network.label_names,
    "central_fraction": network.central_fraction,
  }
  _write_json(os.path.join(folder, "config.json"), content)


# By library: writes its files into a folder.
WRITERS: dict[str, Callable[[Network, str], None]] = {
  "huggingface": _hugging_face,
  "keras": _keras,
  "timm": _of_pytorch("timm"),
  "torchvision": _of_pytorch("torchvision"),
}


def write(library: str, network: Network, folder: str) -> None:
  """Writes the files of one library.

  Args:
    library: Name in `WRITERS`.
    network: What is written.
    folder: Folder to write to, which exists.

  Raises:
    UserError: If the library cannot express the network; the message says which part.
  """
  WRITERS[library](network, folder)
