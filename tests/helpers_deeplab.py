"""The networks of the DeepLab goldens, their images and labels drawn from seeds."""

import functools
import gzip
import json

import golden_recipes
import numpy as np

from mnv2_hpu.checkpoints import variables
from mnv2_hpu.compat import keras
from mnv2_hpu.modeling.deeplab import DeepLab
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

GOLDEN = golden_recipes.GOLDEN / "deeplab"
WEIGHT_DECAY = 4e-5
NUM_CLASSES = 21
# Output stride, ASPP and decoder of research/deeplab's forms.
FORMS = {
  "v3_os16": (16, "none", "none"),
  "v3_os8": (8, "none", "none"),
  "v3_aspp_os16": (16, "ordinary", "none"),
  "v3_aspp_os8": (8, "ordinary", "none"),
  "v3_asppsep_os16": (16, "separable", "none"),
  "plus_os16": (16, "separable", "separable"),
  "plus_os8": (8, "separable", "separable"),
  "plus_full_os16": (16, "ordinary", "ordinary"),
  "plus_noaspp_os16": (16, "none", "separable"),
}


@functools.cache
def architecture():
  """Variables and counts by form."""
  return json.loads(gzip.decompress((GOLDEN / "architecture.json.gz").read_bytes()))


@functools.cache
def load(name):
  """The arrays of a golden .npz by key."""
  with np.load(GOLDEN / name) as arrays:
    return {key: arrays[key] for key in arrays.files}


def load_json(name):
  """The content of a golden .json."""
  return json.loads((GOLDEN / name).read_text())


def build(form, size=(513, 513), weight_seed=None, width_multiplier=1.0, **arguments):
  """A network of `FORMS`, without dropout, its weights drawn from a seed."""
  output_stride, aspp, decoder = FORMS[form]
  regularizer = keras.regularizers.l2(WEIGHT_DECAY / 2)
  backbone = MobileNetV2(
    width_multiplier,
    output_stride=output_stride,
    input_specs=keras.layers.InputSpec(shape=[None, *size, 3]),
    include_last_convolution=False,
    output_intermediate_endpoints=True,
    kernel_regularizer=regularizer,
  )
  arguments = {"dropout_rate": 0.0, "kernel_regularizer": regularizer, **arguments}
  model = DeepLab(backbone, NUM_CLASSES, aspp, decoder, **arguments)
  if weight_seed is not None:
    for name, variable in variables.by_slim_name(model).items():
      shape = tuple(variable.shape)
      variable.assign(golden_recipes.draw_logits_weights(name, shape, weight_seed))
  return model


def _blocks(coarse, height, width):
  rows = np.arange(height) * coarse.shape[1] // height
  columns = np.arange(width) * coarse.shape[2] // width
  return coarse[:, rows][:, :, columns]


def images(seed, batch, height, width, cells=5):
  """Blocks of color under noise, uint8 `[batch, height, width, 3]`."""
  random = np.random.RandomState(seed)
  blocks = _blocks(random.uniform(0, 255, (batch, cells, cells, 3)), height, width)
  noisy = blocks + random.standard_normal(blocks.shape) * 12.0
  return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def normalized_images(*arguments):
  """The same as the network reads them, float32 in [-1, 1]."""
  return images(*arguments).astype(np.float32) * np.float32(2 / 255) - 1


def label_maps(seed, batch, height, width, cells=6):
  """Blocks of classes, a tenth of 255, uint8 `[batch, height, width, 1]`."""
  random = np.random.RandomState(seed)
  labels = random.randint(0, NUM_CLASSES, (batch, cells, cells))
  labels = _blocks(labels, height, width).copy()
  labels[random.uniform(size=labels.shape) < 0.1] = 255
  return labels.astype(np.uint8)[..., np.newaxis]


def logits(seed, batch, height, width):
  """Normal numbers of standard deviation 2, float32."""
  random = np.random.RandomState(seed)
  drawn = random.standard_normal((batch, height, width, NUM_CLASSES)) * 2.0
  return drawn.astype(np.float32)
