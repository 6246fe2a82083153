"""Every gin file, YAML file and override that cannot be read ends in one line.

It names the file, the line, the value, and what is allowed.
"""

import re
import types

import gin
import pytest
from official.core import train_utils

import mnv2_hpu
from mnv2_hpu import driver_flags, error_reports

mnv2_hpu.register()
RECIPE = "mobilenet_v2_classification"
HEAD = "import mnv2_hpu.registry_imports\ninclude 'gin/image_folder.gin'\n"
# A recipe that needs no data set, on lines 3 to 5.
WHOLE = (
  f"{HEAD}DATA_DIR = 'data'\n{RECIPE}.num_classes = 3\n"
  f"{RECIPE}.num_train_examples = 100\n"
)


class Flags(types.SimpleNamespace):
  """As much of absl's flags as Model Garden's parser reads."""

  def __contains__(self, name):
    return hasattr(self, name)


@pytest.fixture
def explained(tmp_path, monkeypatch):
  """Runs what every driver does with its flags; returns what the user reads."""
  monkeypatch.chdir(tmp_path)

  def run(content, gin_params=(), name="my.gin", experiment=RECIPE, **flags):
    if content is not None:
      data = content if isinstance(content, bytes) else content.encode()
      (tmp_path / name).write_bytes(data)
    values = {"config_file": None, "params_override": None, "tpu": None}

    def start():
      gin.parse_config_files_and_bindings([name], list(gin_params))
      flags_obj = Flags(experiment=experiment, **(values | flags))
      train_utils.ExperimentParser(flags_obj).parse()

    with pytest.raises(Exception) as raised:  # noqa: PT011 - its text is asserted
      start()
    text = error_reports.explain(raised.value)
    assert text is not None, repr(raised.value)
    assert "\n" not in text
    return text

  def unlock():
    gin.clear_config()
    gin.config._set_config_is_locked(False)

  unlock()
  yield run
  unlock()


@pytest.mark.parametrize(
  ("line", "expected"),
  [
    ("DATA_DIR = /x", 'Text stands in quotes: DATA_DIR = "/x"'),
    ("DATA_DIR = data/x", 'Text stands in quotes: DATA_DIR = "data/x"'),
    (f"{RECIPE}.optimizer = sgd", f'in quotes: {RECIPE}.optimizer = "sgd"'),
    (f"{RECIPE}.optimizer = 'sgd", "The closing quote is missing"),
    (f"{RECIPE}.flip = false", "The values are True, False and None"),
    ("a = 1; b = 2", "Write one binding in a line"),
    ("batch_size: 8", "configurable.parameter = 8"),
    (f"{RECIPE}.batch_size =", "The value is missing"),
    (f"{RECIPE}.batch_size 8", "Allowed are lines such as"),
  ],
)
def test_a_line_that_gin_cannot_read(explained, line, expected):
  text = explained(f"{WHOLE}{line}\n")
  assert f"my.gin, line 6: cannot read {line!r}" in text
  assert expected in text


def test_a_line_of_gin_params(explained):
  text = explained(WHOLE, [f"{RECIPE}.batch_size = 1; {RECIPE}.image_size = 2"])
  assert "--gin_params: cannot read" in text
  assert "one binding in a line" in text


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    (b"\xef\xbb\xbf" + WHOLE.encode(), r"line 1.*byte order mark"),
    (WHOLE.encode() + b"# caf\xe9\n", "my.gin: the byte 0xe9 near line 6 is no UTF-8"),
    (f"{HEAD}import nosuch.module\n", r"No module named 'nosuch'. \(my.gin, line 3\)"),
    (f"{HEAD}include '../a.gin'\n", r"\.\./a\.gin: no such file.*\(my.gin, line 3\)"),
    (HEAD, r"DATA_DIR needs a value, such as --gin_params='DATA_DIR = \"/path\"'"),
    (f"{WHOLE}{RECIPE}.batch_size = %BATCH\n", "BATCH needs a value"),
    (f"{WHOLE}{RECIPE}.batchsize = 8\n", r"'batch_size'.*\(my.gin, line 6\)"),
    (f"{WHOLE}a.b = @mnv2_hpu.Trainerr\n", r"'mnv2_hpu.Trainerr'.*mean 'Trainer'"),
    (f"{WHOLE}{RECIPE}.crop_area_range = (0.1, 1\n{RECIPE}.flip = True\n", "bracket"),
    (f"{WHOLE}{RECIPE}.batch_size = '8'\n", "batch_size is '8'.*a whole number"),
    (f"{WHOLE}{RECIPE}.flip = 1\n", "flip is 1; it must be True or False"),
    (f"{WHOLE}{RECIPE}.crop_area_range = 0.5\n", "crop_area_range is 0.5.*two numbers"),
    (f"{WHOLE}{RECIPE}.warmup_epochs = 'x'\n", "warmup_epochs is 'x'.*number or None"),
    (f"{WHOLE}DATA_DIR = 's3://a'\n", "data_dir.*s3://a"),
    (f"{HEAD}DATA_DIR = '~/nosuch'\n", r"data_dir=/.*/nosuch does not exist"),
  ],
)
def test_a_gin_file(explained, content, expected):
  text = explained(content)
  assert re.search(expected, text), text


@pytest.mark.parametrize(
  ("name", "expected"), [("no.gin", "no such file"), (".", "is a folder")]
)
def test_no_gin_file(explained, name, expected):
  assert expected in explained(None, name=name)


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    (b"", "it holds no settings"),
    (b"# only\n", "it holds no settings"),
    (b"- a\n- b\n", "it holds no settings"),
    (b"task:\n\ttrain_data: 3\n", "line 2, column 1: no valid YAML"),
    (b"task: {train_data: {seed: 3}\n", "no valid YAML: expected ',' or '}'"),
    (b"a: caf\xe9\n", "the byte 0xe9 near line 1 is no UTF-8"),
    (b"trainer: {train_stepz: 3}\n", "Did you mean 'train_steps'"),
  ],
)
def test_a_config_file(explained, tmp_path, content, expected):
  (tmp_path / "my.yaml").write_bytes(content)
  text = explained(WHOLE, config_file=["my.yaml"])
  assert expected in text
  assert "my.yaml" in text or "train_stepz" in text


@pytest.mark.parametrize("path", ["no.yaml", "."])
def test_no_config_file(explained, path):
  assert f"--config_file={path}: " in explained(WHOLE, config_file=[path])


@pytest.mark.parametrize(
  ("override", "expected"),
  [
    ("{task: {train_data: {seed: 3}}", "--params_override, line 1, column 31"),
    ("task.train_data.input_path=/a,b/train-*", "Values that hold a comma stand in"),
    ("task.train_data.seed", "neither name=value, nor YAML, nor a file"),
    ("task.train_data.sed=3", "DataConfig has no field 'sed'"),
  ],
)
def test_a_params_override(explained, override, expected):
  assert expected in explained(WHOLE, params_override=override)


def test_the_bindings_do_not_apply_to_a_stock_experiment(explained, monkeypatch):
  stock = "mobilenet_imagenet"
  monkeypatch.setattr(driver_flags, "driver_experiment", lambda: stock)
  text = explained(WHOLE, experiment=stock)
  assert (
    f"--experiment={stock} is Model Garden's and reads none of the bindings" in text
  )
  assert f"Use --experiment={RECIPE}" in text
