"""The operation in C++ computes what TensorFlow's do, and is left out where it must."""

import functools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import inception_preprocessing
from mnv2_hpu.dataloaders.input_fields import PreprocessingOptions
from mnv2_hpu.errors import UserError
from mnv2_hpu.native import build, library

TRAINING, EVALUATION = "Mnv2HpuDistortCrop", "Mnv2HpuResizeForEval"
HEIGHT, WIDTH = 37, 52

needs_compiler = pytest.mark.skipif(
  shutil.which("c++") is None, reason="there is no C++ compiler: NOT TESTED"
)


@pytest.fixture
def built():
  library.build()


def distort(crop, seed, **options):
  return inception_preprocessing.distort_crop(
    tf.constant(crop), HEIGHT, WIDTH, PreprocessingOptions(**options), seed
  ).numpy()


def crops():
  """Smooth images and noise, of all shapes: photographs lie between them."""
  random = np.random.default_rng(0)
  for height, width in [(1, 1), (1, 9), (300, 1), (20, 30), (37, 52), (400, 333)]:
    coarse = random.integers(0, 256, (5, 5, 3), np.uint8)
    smooth = tf.image.resize(coarse, (height, width)).numpy().astype(np.uint8)
    yield smooth
    yield random.integers(0, 256, (height, width, 3), np.uint8)
    yield np.full((height, width, 3), random.integers(256, size=3), np.uint8)
  yield np.zeros((8, 8, 3), np.uint8)
  yield np.full((8, 8, 3), 255, np.uint8)


@needs_compiler
@pytest.mark.parametrize(
  "options",
  [{}, {"flip": False}, {"color_distortion": False}],
  ids=["all", "no_flip", "no_color"],
)
def test_pixels_are_those_of_tensorflows_operations(built, monkeypatch, options):
  """Within a thousandth of a level: the same draws, flip, crop and colors."""
  for number, crop in enumerate(crops()):
    seed = tf.constant([number, 7], tf.int64)
    found = distort(crop, seed, **options)
    monkeypatch.setenv(library.SWITCH, "0")
    expected = distort(crop, seed, **options)
    monkeypatch.delenv(library.SWITCH)
    differs = np.abs(found - expected).max(axis=-1) > 1e-3 * 2 / 255
    # TensorFlow turns a pixel gray whose hue is a rounding error below a whole turn.
    is_gray = np.ptp(expected, axis=-1) == 0
    assert not (differs & ~is_gray).any()
    assert differs.mean() < 1e-3


@needs_compiler
@pytest.mark.parametrize("flip", [True, False])
def test_levels_for_a_device_are_those_of_tensorflows_operations(
  built, monkeypatch, flip
):
  options = PreprocessingOptions(preprocess_on_device=True, flip=flip)
  for number, crop in enumerate(crops()):
    found, expected = [], []
    for switch, values in (("1", found), ("0", expected)):
      monkeypatch.setenv(library.SWITCH, switch)
      features = inception_preprocessing.resize_for_device(
        tf.constant(crop), HEIGHT, WIDTH, options, tf.constant([number, 7], tf.int64)
      )
      values.extend(value.numpy().tobytes() for value in features.values())
    assert found == expected


@needs_compiler
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (37, 52), (224, 224)])
def test_evaluation_sees_bit_for_bit_what_an_export_sees(built, size):
  for image in crops():
    for options in (PreprocessingOptions(), PreprocessingOptions(crop=False)):
      found, expected = (
        inception_preprocessing.preprocess_for_eval(
          tf.constant(image), *size, options, native=native
        ).numpy()
        for native in (True, False)
      )
      assert found.tobytes() == expected.tobytes()


def operations(function):
  """Returns the kinds of operations that a function makes of an image."""
  graph = tf.Graph()
  with graph.as_default():
    function(tf.zeros([9, 9, 3], tf.uint8), 4, 4)
  return {op.type for op in graph.get_operations()}


@needs_compiler
@pytest.mark.parametrize(("switch", "is_used"), [("1", True), ("0", False)])
def test_a_switch_leaves_it_out(built, monkeypatch, switch, is_used):
  monkeypatch.setenv(library.SWITCH, switch)
  training = operations(
    lambda crop, *size: inception_preprocessing.distort_crop(
      crop, *size, PreprocessingOptions(), tf.constant([1, 2])
    )
  )
  evaluation = operations(
    functools.partial(inception_preprocessing.preprocess_for_eval, native=True)
  )
  assert (TRAINING in training, EVALUATION in evaluation) == (is_used, is_used)
  assert ("ResizeBilinear" in evaluation) == (not is_used)
  assert library.describe().startswith("one pass" if is_used else "TensorFlow's")


@needs_compiler
def test_what_is_exported_has_tensorflows_operations_alone(built):
  exported = operations(inception_preprocessing.preprocess_for_eval)
  assert not [kind for kind in exported if kind.startswith("Mnv2Hpu")]


@needs_compiler
@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 5, 4)])
def test_what_is_no_crop_is_an_error(built, shape):
  operation = library.load().mnv2_hpu_resize_for_eval
  with pytest.raises(tf.errors.InvalidArgumentError, match="crop"):
    operation(crop=np.zeros(shape, np.uint8), height=4, width=4)


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_where_it_is_not_built_training_goes_on_without(empty_cache):
  assert library.load() is None
  assert "mnv2_hpu.native.build" in library.describe()
  image = distort(np.zeros((5, 5, 3), np.uint8), tf.constant([1, 2]))
  assert image.shape == (HEIGHT, WIDTH, 3)


def test_a_missing_compiler_is_named(empty_cache, monkeypatch, capsys):
  monkeypatch.setenv("CXX", "no-such-compiler")
  assert build.main() == 3
  assert "no C++ compiler 'no-such-compiler'" in capsys.readouterr().err


@needs_compiler
def test_a_source_that_does_not_compile_leaves_nothing(
  empty_cache, monkeypatch, tmp_path
):
  source = tmp_path / "broken.cc"
  source.write_text("int main( {")
  monkeypatch.setattr(library, "SOURCE", source)
  with pytest.raises(UserError, match=r"cannot be compiled(.|\n)*error:"):
    library.build()
  assert list((tmp_path / "mnv2_hpu").iterdir()) == []


@needs_compiler
@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_library_that_is_not_whole_is_left_alone_and_built_again(
  empty_cache, content
):
  kept = library.build()
  whole = kept.read_bytes()
  kept.write_bytes(whole[: len(whole) // 2] if content is None else content)
  assert library.load() is None
  assert library.build().read_bytes() == whole


@needs_compiler
def test_a_cache_that_cannot_be_written_is_one_error(monkeypatch, tmp_path, capsys):
  (tmp_path / "file").touch()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  assert build.main() == 1
  assert "cannot be written" in capsys.readouterr().err


def test_a_compiler_that_writes_nothing_is_one_error(empty_cache, monkeypatch, capsys):
  monkeypatch.setenv("CXX", "true -O2")
  assert build.main() == 1
  assert "it wrote nothing" in capsys.readouterr().err
