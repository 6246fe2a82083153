"""The examples of docs/export.md classify a photo as the run's evaluation would."""

import pathlib
import re

import helpers_serving as serving
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders.inception_preprocessing import preprocess_for_eval

pytestmark = [pytest.mark.slow, pytest.mark.checkout]

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "export.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)


@pytest.fixture
def photo(exported, tmp_path, monkeypatch):
  """The current folder holds an export and a photo; returns its pixels."""
  monkeypatch.chdir(tmp_path)
  pathlib.Path("export").symlink_to(exported.export_dir)
  noise = np.random.default_rng(5).integers(0, 256, (60, 45, 3), np.uint8)
  encoded = tf.io.encode_jpeg(noise)
  pathlib.Path("photo.jpg").write_bytes(encoded.numpy())
  return tf.io.decode_jpeg(encoded)


@pytest.mark.parametrize(
  "code", [*EXAMPLES[:2], "".join(EXAMPLES[1:3])], ids=["SavedModel", "TFLite", "ONNX"]
)
def test_example_gives_the_probabilities_of_evaluation(trained, photo, code):
  size = serving.SIZE
  inputs = preprocess_for_eval(photo, size, size, serving.OPTIONS)[tf.newaxis]
  expected = tf.nn.softmax(trained.model(inputs, training=False))[0]
  assert "mnv2_hpu" not in code
  names = {}
  exec(code, names)
  np.testing.assert_allclose(np.squeeze(names["probs"]), expected, atol=1e-4)
