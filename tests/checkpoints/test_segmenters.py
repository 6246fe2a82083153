"""Whole segmenters: Hugging Face's logits, and TF1 checkpoints of any width."""

import gzip
import json

import golden_recipes
import import_recipes
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.checkpoints import load_segmenter, variables
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling.deeplab import DeepLab
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

GOLDEN = import_recipes.GOLDEN


@pytest.mark.fidelity
def test_logits_are_hugging_faces(tmp_path, fidelity):
  case = json.loads(gzip.decompress((GOLDEN / "hf_seg_0.35.json.gz").read_bytes()))
  import_recipes.write(case, tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(case["config"]))
  model, info = load_segmenter(str(tmp_path))
  assert (info.source, info.width_multiplier, info.output_stride) == (
    *("huggingface", 0.35),
    8,
  )
  assert (info.architecture.aspp, info.architecture.num_classes) == ("none", 5)
  differences = {}
  with np.load(GOLDEN / "hf_seg_0.35.npz") as arrays:
    for key in arrays.files:
      height, width = map(int, key.removeprefix("logits_").split("x"))
      images = import_recipes.images(20 + height, 3, height, width)
      logits = model(images, training=False)["logits"].numpy()
      differences[key] = np.abs(logits - arrays[key]).max()
      np.testing.assert_array_equal(logits.argmax(-1), arrays[key].argmax(-1))
  worst = max(differences.values())
  fidelity("logits of Hugging Face's segmenter, 4 sizes", "golden", "ours", worst, 3e-4)
  assert worst < 3e-4


@pytest.mark.parametrize(
  ("width", "divisor", "aspp", "decoder"),
  [(0.5, 1, "none", "none"), (0.35, 8, "separable", "separable")],
)
def test_a_tf1_checkpoint_says_which_network_it_is(
  tmp_path, width, divisor, aspp, decoder
):
  backbone = MobileNetV2(
    width,
    output_stride=16,
    channel_divisor=divisor,
    include_last_convolution=False,
    output_intermediate_endpoints=True,
  )
  model = DeepLab(backbone, 7, aspp, decoder)
  stored = {"global_step": np.int64(5)}
  for name, variable in variables.by_slim_name(model).items():
    drawn = golden_recipes.draw_logits_weights(name, tuple(variable.shape), 3)
    variable.assign(drawn)
    stored[name] = drawn
  tf.raw_ops.SaveV2(
    prefix=str(tmp_path / "model.ckpt"),
    tensor_names=[*stored],
    shape_and_slices=[""] * len(stored),
    tensors=[*stored.values()],
  )
  loaded, info = load_segmenter(str(tmp_path / "model.ckpt"))
  assert (info.width_multiplier, info.channel_divisor) == (width, divisor)
  assert (info.architecture.aspp, info.architecture.decoder) == (aspp, decoder)
  assert (info.source, info.global_step) == ("deeplab", 5)
  images = import_recipes.images(1, 1, 65, 49)
  expected = model(images, training=False)["logits"]
  np.testing.assert_array_equal(loaded(images, training=False)["logits"], expected)


def test_a_classifier_is_no_segmenter():
  checkpoint = str(golden_recipes.GOLDEN / "checkpoint" / "model.ckpt-1234")
  for path in (checkpoint, str(GOLDEN / "hf_0.35")):
    with pytest.raises(UserError, match=r"load_pretrained\s+reads classifiers"):
      load_segmenter(path)
