"""Names of the last release still work, and the warning says the new one."""

import gin
import pytest
from official.core import exp_factory

import mnv2_hpu
from mnv2_hpu import deprecations
from mnv2_hpu.configs import gin_files, image_classification

mnv2_hpu.register()
RECIPE = "mobilenet_v2_classification"


@pytest.fixture(autouse=True)
def _clear():
  gin.clear_config()
  deprecations.warn.cache_clear()
  yield
  gin.clear_config()


@pytest.mark.parametrize(
  "binding", [f"{RECIPE}.average_decay = 0.5", f"mnv2_hpu.{RECIPE}.average_decay = 0.5"]
)
def test_an_old_gin_parameter_binds_the_new_one(binding, caplog):
  gin.parse_config(binding)
  assert gin.query_parameter(f"{RECIPE}.ema_decay") == 0.5
  assert f"{RECIPE}.average_decay is now {RECIPE}.ema_decay" in caplog.text


def test_what_is_bound_last_counts_by_either_name():
  gin.parse_config([f"{RECIPE}.average_decay = 0.5", f"{RECIPE}.ema_decay = 0.6"])
  assert gin.query_parameter(f"{RECIPE}.ema_decay") == 0.6
  gin.bind_parameter(f"{RECIPE}.average_decay", 0.7)
  assert gin.query_parameter(f"{RECIPE}.ema_decay") == 0.7


def test_every_new_name_exists():
  for old, new in deprecations.GIN_PARAMETERS.items():
    gin.parse_config(f"{old} = 0")
    assert gin.query_parameter(f"{old.split('.')[0]}.{new}") == 0
  data = image_classification.DataConfig()
  for old in deprecations.DATA_FIELDS:
    value = {"max_unreadable_records": 7}.get(old, [0.25, 0.5])
    data.override({old: value})
    target = data
    for name in deprecations.DATA_FIELDS[old].split("."):
      target = getattr(target, name)
    assert target == value
  for new in deprecations.GIN_FILES.values():
    assert all(name in gin_files.names() for name in new)


def test_a_field_of_the_data_config_by_its_old_name(caplog):
  data = image_classification.DataConfig()
  data.override({"aug_crop": False, "fast_mode": False})
  assert not data.preprocessing_options.crop
  assert not data.preprocessing_options.fast_mode
  assert "train_data.aug_crop is now task.train_data.preprocessing_options.crop" in (
    caplog.text
  )


def test_a_whole_data_config_of_this_release_overrides_itself():
  data = image_classification.DataConfig(seed=3)
  data.preprocessing_options.crop = False
  again = image_classification.DataConfig()
  again.override(data.as_dict())
  assert again.as_dict() == data.as_dict()


@pytest.mark.parametrize("folder", ["", "gin/", f"{gin_files.folder()}/"])
def test_a_gin_file_that_has_moved_is_found(folder, tmp_path, monkeypatch, caplog):
  monkeypatch.chdir(tmp_path)
  gin.parse_config_files_and_bindings(
    [f"{folder}cards/one_card.gin"], [f"DATA_DIR = '{tmp_path}'"]
  )
  config = exp_factory.get_exp_config(RECIPE)
  assert config.runtime.distribution_strategy == "hpu"
  assert config.task.model.num_classes == 1001
  assert "is now gin/imagenet.gin and gin/hardware/hpu.gin" in caplog.text


def test_flags_have_their_new_names(monkeypatch, caplog):
  monkeypatch.setattr(deprecations, "FLAGS", {"old": "new", "fast": "quick"})
  argv = ["program", "--old=a=b", "--nofast", "-old", "a", "--other", "old"]
  assert deprecations.rename_flags(argv, {"new", "quick"}) == [
    "program", "--new=a=b", "--noquick", "--new", "a", "--other", "old",
  ]  # fmt: skip
  assert "--old is now --new" in caplog.text
  # A program that has a flag of the old name keeps it.
  assert deprecations.rename_flags(argv, {"old", "fast"}) == argv
