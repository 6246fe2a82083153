"""What a user reads after a mistake in gin, experiment or override."""

import os

import gin
import pytest
import tensorflow as tf
from official.core import exp_factory, input_reader
from official.modeling import hyperparams

import mnv2_hpu
from mnv2_hpu import error_reports
from mnv2_hpu.errors import UserError

mnv2_hpu.register()


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def _explained(function, *args):
  with pytest.raises(Exception) as raised:  # noqa: PT011 - what is raised is asserted
    function(*args)
  return error_reports.explain(raised.value)


def test_misspelt_gin_parameter_names_the_nearest():
  text = _explained(gin.parse_config, "mobilenet_v2_classification.lerning_rate = 0.1")
  assert "has no parameter 'lerning_rate'" in text
  assert "Did you mean 'learning_rate'" in text


def test_misspelt_gin_configurable_names_the_nearest():
  text = _explained(gin.parse_config, "mobilenet_v2_clasification.learning_rate = 0.1")
  assert "nothing is called 'mobilenet_v2_clasification'" in text
  assert "'mobilenet_v2_classification'" in text


def test_missing_gin_binding_is_named():
  text = _explained(exp_factory.get_exp_config, "mobilenet_v2_classification")
  assert "data_dir" in text
  assert "--gin_params" in text


def test_unknown_experiment_names_the_nearest():
  text = _explained(exp_factory.get_exp_config, "mobilenet_v2_clasification")
  assert "'mobilenet_v2_clasification' is not registered" in text or (
    "mobilenet_v2_clasification is not registered" in text
  )
  assert "Did you mean 'mobilenet_v2_classification'" in text


def test_unknown_override_names_the_nearest():
  config = exp_factory.get_exp_config("mobilenet_imagenet")
  override = {"trainer": {"train_stepz": 3}}
  text = _explained(
    lambda: hyperparams.override_params_dict(config, override, is_strict=True)
  )
  assert "TrainerConfig has no field 'train_stepz'" in text
  assert "'train_steps'" in text


def test_a_defect_is_not_explained():
  assert error_reports.explain(ValueError("shapes do not match")) is None


def test_users_errors_explain_themselves():
  assert error_reports.explain(UserError("what to do")) == "what to do"


def test_users_errors_explain_themselves_behind_an_input_pipeline():
  def refuse(_):
    raise UserError("what is wrong\nand what to do")

  data = tf.data.Dataset.range(1).map(
    lambda number: tf.numpy_function(refuse, [number], tf.int64)
  )
  assert _explained(next, iter(data)) == "what is wrong\nand what to do"


@pytest.mark.parametrize(
  "pattern", ["coco/train*", "gs://**/pascal_voc_seg/train_aug*"], ids=["local", "gcs"]
)
def test_default_paths_of_the_model_garden_are_explained(pattern):
  text = _explained(input_reader.match_files, pattern)
  assert text.startswith(f"no data file matches {pattern!r}")
  assert "task.train_data.input_path" in text


def test_ctrl_c_is_one_word():
  assert error_reports.explain(KeyboardInterrupt()) == "interrupted"


@pytest.mark.parametrize("make", [os.makedirs, tf.io.gfile.makedirs])
def test_errors_of_the_file_system_at_a_given_path_are_no_defects(make, tmp_path):
  (tmp_path / "file").touch()
  path = str(tmp_path / "file" / "run")
  with pytest.raises(Exception) as raised:  # noqa: PT011 - what is raised is asserted
    make(path)
  text = error_reports.explain(raised.value, {"model_dir": path})
  assert text.startswith(f"--model_dir={path} cannot be used: ")
  assert "\n" not in text
  elsewhere = {"model_dir": str(tmp_path / "other")}
  assert error_reports.explain(raised.value, elsewhere) is None


def test_an_error_at_the_hidden_folder_of_an_output_is_no_defect(tmp_path):
  hidden = tmp_path / ".out.tmp"
  error = FileNotFoundError(2, "No such file or directory", str(hidden))
  given = {"output_dir": str(tmp_path / "out")}
  text = error_reports.explain(error, given)
  assert text == (
    f"--output_dir={tmp_path / 'out'} cannot be used: {hidden}; "
    "No such file or directory"
  )
  assert error_reports.explain(error, {"output_dir": str(tmp_path / "put")}) is None
