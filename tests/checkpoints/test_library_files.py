"""Files for other libraries: their names and shapes, and the same logits."""

import json
import os

import import_recipes
import numpy as np
import pytest
import safetensors.numpy
from official.vision.modeling import classification_model

from mnv2_hpu.checkpoints import library_files, load_pretrained
from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

OF_PYTORCH = {"use_explicit_padding": True, "norm_epsilon": 1e-5}
CASES = import_recipes.cases()


def network(num_classes=5, label_names=None, preprocessing="inception", **backbone):
  keras.utils.set_random_seed(3)
  model = classification_model.ClassificationModel(
    MobileNetV2(**{"width_multiplier": 0.75, **backbone}), num_classes
  )
  random = np.random.default_rng(0)
  for variable in model.variables:  # lively batch statistics
    if len(variable.shape) == 1:
      variable.assign(random.uniform(0.5, 1.5, variable.shape))
  return library_files.Network(model, preprocessing, 96, label_names, 0.75)


@pytest.mark.parametrize(
  ("library", "case"),
  [
    ("huggingface", "hf_0.75"),
    ("timm", "timm_075"),
    ("torchvision", "torchvision_0.75"),
  ],
)
def test_names_and_shapes_are_those_of_the_library(library, case, tmp_path):
  names = {name: tuple(shape) for name, shape in CASES[case]["names"]}
  classes = names[next(n for n in names if n.startswith("classifier"))][0]
  written = network(classes, **(OF_PYTORCH if library != "huggingface" else {}))

  library_files.write(library, written, str(tmp_path))

  tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  assert {name: value.shape for name, value in tensors.items()} == names


@pytest.mark.parametrize("library", library_files.WRITERS)
def test_what_is_written_is_read_as_the_same_function(library, tmp_path):
  is_pytorch = library in ("timm", "torchvision")
  preprocessing = "model_garden" if is_pytorch else "inception"
  names = [f"kind {i}" for i in range(5)]
  written = network(
    label_names=names, preprocessing=preprocessing, **(OF_PYTORCH if is_pytorch else {})
  )
  library_files.write(library, written, str(tmp_path))

  model, info = load_pretrained(str(tmp_path))

  assert (info.source, info.preprocessing) == (library, preprocessing)
  images = import_recipes.images(1, 2, 64, 64)
  np.testing.assert_array_equal(model(images), written.model(images))
  if library != "torchvision":  # which has no file for it
    assert info.label_names == tuple(names)
    assert info.image_size == 96
  if library in ("huggingface", "keras"):
    assert info.central_fraction == 0.75
  umask = os.umask(0)
  os.umask(umask)
  for path in tmp_path.iterdir():
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


def test_keras_applications_loads_it_and_has_the_same_logits(tmp_path):
  written = network()
  library_files.write("keras", written, str(tmp_path))
  theirs = keras.applications.MobileNetV2(
    input_shape=(96, 96, 3),
    alpha=0.75,
    classes=5,
    weights=str(tmp_path / "weights.h5"),
    classifier_activation=None,
  )
  images = import_recipes.images(1, 2, 96, 96)
  np.testing.assert_allclose(
    theirs(images, training=False), written.model(images), rtol=0, atol=1e-4
  )


def test_hugging_faces_config_says_what_the_weights_expect(tmp_path):
  written = network(output_stride=16, **OF_PYTORCH)
  library_files.write("huggingface", written, str(tmp_path))
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["tf_padding"] is False
  assert config["layer_norm_eps"] == 1e-5
  assert config["output_stride"] == 16
  assert config["depth_multiplier"] == 0.75
  processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
  assert processor["image_mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
  ("library", "changes", "message"),
  [
    ("torchvision", {}, "use_explicit_padding is True"),
    ("timm", {"use_explicit_padding": True}, "norm_epsilon is 1e-05"),
    ("keras", OF_PYTORCH, "use_explicit_padding is False"),
    ("keras", {"output_stride": 8}, "output_stride is 32, this one has 8"),
    ("keras", {"finegrain_classification_mode": False}, "finegrain"),
    ("huggingface", {"activation": "swish"}, "activation is 'relu6'"),
    ("keras", {"width_multiplier": 0.84}, "cannot express width_multiplier = 0.84"),
  ],
)
def test_what_a_library_cannot_express_is_named(library, changes, message, tmp_path):
  with pytest.raises(UserError, match=message):
    library_files.write(library, network(**changes), str(tmp_path))
  assert not list(tmp_path.iterdir())
