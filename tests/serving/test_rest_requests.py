"""The SavedModel behind the REST requests that TensorFlow Serving documents."""

import base64
import json
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.request

import helpers_serving as serving
import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders.inception_preprocessing import preprocess_for_eval

pytestmark = pytest.mark.slow

TESTS = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def port(exported):
  """Port of a process that has loaded the model, and nothing of this project."""
  command = [sys.executable, str(TESTS / "helpers_rest_server.py")]
  with subprocess.Popen(
    [*command, exported.files["saved_model"]], stdout=subprocess.PIPE, text=True
  ) as process:
    yield int(process.stdout.readline())
    process.kill()


def post(port, **body):
  url = f"http://127.0.0.1:{port}/v1/models/mnv2:predict"
  request = urllib.request.Request(url, json.dumps(body).encode())
  with urllib.request.urlopen(request, timeout=60) as response:
    return json.load(response)["predictions"]


def expected(trained, images):
  inputs = tf.stack(
    [
      preprocess_for_eval(i, serving.SIZE, serving.SIZE, serving.OPTIONS)
      for i in images
    ]
  )
  return trained.model(inputs, training=False).numpy()


def b64(encoded):
  return {"b64": base64.b64encode(encoded).decode()}


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"inputs": v}])
def test_files_are_sent_as_b64_named_or_not(trained, port, wrap):
  images = trained.images[:3]
  instances = [wrap(b64(serving.png(image))) for image in images]
  rows = post(port, signature_name="image_bytes", instances=instances)
  logits = expected(trained, images)
  np.testing.assert_allclose([r["logits"] for r in rows], logits, atol=1e-4)
  np.testing.assert_allclose(
    [r["probs"] for r in rows], tf.nn.softmax(logits), atol=1e-5
  )


def test_pixels_are_sent_as_lists_to_the_default_signature(trained, port):
  rows = post(port, instances=[trained.images[0].tolist()])
  (logits,) = expected(trained, trained.images[:1])
  np.testing.assert_allclose(rows[0]["logits"], logits, atol=1e-4)


@pytest.mark.checkout
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_documented_command_prints_the_prediction(trained, port, tmp_path):
  text = (TESTS.parent / "docs" / "export.md").read_text()
  (command,) = re.findall(r"^curl (?:.*\\\n)*.*$", text, re.MULTILINE)
  (tmp_path / "photo.jpg").write_bytes(serving.png(trained.images[0]))
  done = subprocess.run(
    ["bash", "-c", command.replace("8501", str(port))],
    capture_output=True,
    check=True,
    cwd=tmp_path,
  )
  (row,) = json.loads(done.stdout)["predictions"]
  (logits,) = expected(trained, trained.images[:1])
  np.testing.assert_allclose(row["logits"], logits, atol=1e-4)
