"""Weights and images of the golden files of other libraries, drawn from their seeds.

Each tensor has a generator of its own, named as its library has it; values are rounded
to float16 and used as float32. `files` writes what the libraries would.
"""

import gzip
import json
import pathlib
import zlib

import h5py
import numpy as np
import safetensors.numpy

GOLDEN = pathlib.Path(__file__).parent / "golden" / "import"
_KINDS = {
  "gamma": lambda random, shape: random.uniform(0.6, 1.4, shape),
  "beta": lambda random, shape: random.standard_normal(shape) * 0.2 + 0.1,
  "mean": lambda random, shape: random.standard_normal(shape) * 0.3,
  "variance": lambda random, shape: random.uniform(0.6, 1.6, shape),
  "bias": lambda random, shape: random.standard_normal(shape) * 0.1,
}
_TORCH = {"running_mean": "mean", "running_var": "variance", "weight": "gamma"}
_KERAS = {"moving_mean": "mean", "moving_variance": "variance"}


def cases():
  """Names and shapes of other libraries' networks, by name of the case."""
  with gzip.open(GOLDEN / "drawn.json.gz", "rt") as file:
    return json.load(file)["cases"]


def _draw(name, shape, kind, fan_in, seed):
  random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
  if kind == "kernel":
    values = random.standard_normal(shape) * np.sqrt(2.0 / fan_in)
  else:
    values = _KINDS[kind](random, shape)
  return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def draw_torch(name, shape, seed=20):
  """A tensor of PyTorch's, by its name."""
  leaf = name.rpartition(".")[2]
  if leaf == "num_batches_tracked":
    return np.array(1234)
  if len(shape) in (2, 4):
    return _draw(name, shape, "kernel", int(np.prod(shape[1:])), seed)
  is_classifier = "classifier" in name
  kind = "beta" if leaf == "bias" and not is_classifier else _TORCH.get(leaf, leaf)
  return _draw(name, shape, kind, 0, seed)


def draw_keras(name, shape, seed=20):
  """A variable of Keras', by `layer/leaf`."""
  leaf = name.rpartition("/")[2]
  if leaf.endswith("kernel"):
    fan_in = 9 if leaf == "depthwise_kernel" else int(np.prod(shape[:-1]))
    return _draw(name, shape, "kernel", fan_in, seed)
  return _draw(name, shape, _KERAS.get(leaf, leaf), 0, seed)


def write(case, folder):
  """Writes the file that a library would write of a case; returns its path."""
  if case["kind"] != "keras":
    tensors = {name: draw_torch(name, shape) for name, shape in case["names"]}
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(
      {name: np.array(value, order="C") for name, value in tensors.items()}, path
    )
    return path
  path = folder / "model.h5"
  with h5py.File(path, "w") as file:
    for name, shape in case["names"]:
      layer, _, leaf = name.rpartition("/")
      file.create_dataset(f"{layer}/{layer}/{leaf}:0", data=draw_keras(name, shape))
  return path


def images(seed, batch, height, width, cells=4):
  """Blocks of color with noise, float32 `[batch, height, width, 3]` in [-1, 1]."""
  random = np.random.RandomState(seed)
  coarse = random.uniform(-1, 1, (batch, cells, cells, 3))
  rows = np.arange(height) * cells // height
  columns = np.arange(width) * cells // width
  noise = random.standard_normal((batch, height, width, 3)) * 0.15
  return np.clip(coarse[:, rows][:, :, columns] + noise, -1, 1).astype(np.float32)
