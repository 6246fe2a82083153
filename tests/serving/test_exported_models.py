import os
import shutil

import helpers_serving as serving
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import exported_models

pytestmark = pytest.mark.slow  # for the export that most of them share


@pytest.mark.parametrize("name", ["saved_model", "tflite", "onnx"])
def test_single_is_loaded_with_its_metadata(trained, exported, name):
  together = exported_models.load(exported.export_dir)[name]
  run, content = exported_models.load_one(exported.files[name])
  assert content["global_step"] == 42
  encoded = tf.constant([serving.png(image) for image in trained.images[:37]])
  outputs = run(encoded)  # in chunks of 16
  assert {k: v.shape for k, v in outputs.items()} == dict.fromkeys(
    ["logits", "probs"], (37, serving.NUM_CLASSES)
  )
  np.testing.assert_array_equal(outputs["probs"], together(encoded)["probs"])


def test_path_of_no_model_says_what_is_allowed(exported, tmp_path):
  (tmp_path / "photo.jpg").touch()
  for path in (tmp_path, tmp_path / "photo.jpg", tmp_path / "none.tflite"):
    with pytest.raises(
      UserError, match=r"saved_model\.pb.* a \*\.tflite or \*\.onnx file"
    ):
      exported_models.load_one(str(path))


@pytest.mark.parametrize("fraction", [0, 0.001, 0.3, 0.99])
@pytest.mark.parametrize("name", ["saved_model", "tflite", "onnx"])
def test_truncated_model_is_a_users_mistake(exported, tmp_path, name, fraction):
  shutil.copytree(exported.export_dir, tmp_path / "export")
  path = tmp_path / "export" / os.path.basename(exported.files[name])
  parts = [path] if path.is_file() else [path / "saved_model.pb"]
  parts += list(path.glob("variables/*.data*"))
  for part in parts:
    content = part.read_bytes()
    part.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(UserError, match=r"cannot be loaded \(.*Export again"):
      exported_models.load_one(str(path))
    part.write_bytes(content)
