"""TensorFlow 1 checkpoints of research/deeplab."""

import golden_recipes
import helpers_deeplab
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.checkpoints import load_slim_checkpoint, variables
from mnv2_hpu.errors import UserError

CLASSIFIER = str(golden_recipes.GOLDEN / "checkpoint" / "model.ckpt-1234")


def write(path, by_name):
  """Writes arrays by name as TensorFlow 1's Saver does; returns the prefix."""
  names, tensors = zip(*by_name.items(), strict=True)
  tf.raw_ops.SaveV2(
    prefix=str(path),
    tensor_names=names,
    shape_and_slices=[""] * len(names),
    tensors=tensors,
  )
  return str(path)


def values(model, seed):
  """Values by the original's names, drawn from a seed."""
  return {
    name: golden_recipes.draw_logits_weights(name, tuple(variable.shape), seed)
    for name, variable in variables.by_slim_name(model).items()
  }


@pytest.mark.parametrize("form", ["v3_os16", "plus_os16", "plus_full_os16"])
def test_every_variable_is_the_one_of_its_name(tmp_path, form):
  model = helpers_deeplab.build(form)
  stored = values(model, 7)
  slots = {f"{name}/Momentum": value for name, value in stored.items()}
  path = write(
    tmp_path / "model.ckpt-30000", {**stored, **slots, "global_step": np.int64(30000)}
  )
  read = load_slim_checkpoint(model, path, weights="raw")
  assert read.global_step == 30000
  assert set(read.restored) == set(stored)
  assert set(read.ignored) == {*slots, "global_step"}
  for name, variable in variables.by_slim_name(model).items():
    np.testing.assert_array_equal(variable, stored[name], name)


def test_another_form_is_named(tmp_path):
  stored = values(helpers_deeplab.build("plus_os16"), 7)
  path = write(tmp_path / "model.ckpt", stored)
  message = "aspp=separable, decoder=separable, num_classes=21"
  with pytest.raises(UserError, match=message):
    load_slim_checkpoint(helpers_deeplab.build("v3_os16"), path, weights="raw")


def test_a_classifier_gives_its_backbone():
  model = helpers_deeplab.build("v3_os16", width_multiplier=0.35)
  head = model.get_layer("aspp0").kernel.numpy()
  read = load_slim_checkpoint(model, CLASSIFIER, weights="raw", logits=False)
  assert len(read.restored) == len(model.backbone.variables)
  assert "MobilenetV2/Conv_1/weights" in read.ignored
  np.testing.assert_array_equal(model.get_layer("aspp0").kernel, head)
