import importlib.util
import json

import helpers_serving as serving
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from mnv2_hpu.errors import UserError
from mnv2_hpu.serving import export, metadata

pytestmark = pytest.mark.slow  # for the export that all of them share


@pytest.fixture(scope="module")
def session(exported):
  """The model as ONNX Runtime alone loads it."""
  path = exported.files["onnx"]
  return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_onnx_runtime_computes_what_the_network_does(trained, session):
  (taken,) = session.get_inputs()
  size = serving.SIZE
  assert (taken.name, taken.shape) == ("inputs", ["batch", size, size, 3])
  pixels = np.random.default_rng(2).integers(0, 256, (5, size, size, 3))
  logits, probs = session.run(
    ["logits", "probs"], {"inputs": pixels.astype(np.float32)}
  )
  expected = trained.model(tf.constant(pixels / 127.5 - 1, tf.float32), training=False)
  np.testing.assert_allclose(logits, expected, atol=1e-4)
  np.testing.assert_allclose(probs, tf.nn.softmax(expected), atol=1e-5)


def test_the_file_holds_its_metadata(exported, session):
  held = session.get_modelmeta().custom_metadata_map["export.json"]
  assert json.loads(held) == metadata.read(exported.export_dir)


def test_without_its_packages_nothing_is_written(trained, tmp_path, monkeypatch):
  find = importlib.util.find_spec
  absent = {"tf2onnx": None, "onnxruntime": None}
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name, *_: absent.get(name, name and find(name))
  )
  with pytest.raises(UserError, match=r"needs tf2onnx and onnxruntime.*\[onnx\]"):
    export.export(
      trained.params, trained.checkpoint, str(tmp_path / "export"), formats=["onnx"]
    )
  assert not list(tmp_path.iterdir())
