"""Mistakes of the user: one clear message, exit code 1, no traceback, before step 0."""

import pathlib
import shutil

import helpers_programs
import pytest
import tensorflow as tf

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRIVERS = ("mnv2_hpu.cli.train", helpers_programs.STOCK_DRIVER)


def _args(data_dir, model_dir, *more, bindings=()):
  return [
    "--experiment=mobilenet_v2_classification",
    "--gin_file=gin/digits.gin",
    f"--gin_params=DATA_DIR = '{data_dir}'",
    *(f"--gin_params=mobilenet_v2_classification.{b}" for b in bindings),
    "--mode=train",
    f"--model_dir={model_dir}",
    *more,
  ]


def _assert_refused(done, *texts):
  errors = [line for line in done.output.splitlines() if line.startswith("error: ")]
  assert done.returncode == 1, done.output[-3000:]
  assert len(errors) == 1, done.output[-3000:]
  for text in texts:
    assert text in done.output[done.output.index("error: ") :]
  assert "Traceback" not in done.output


@pytest.fixture
def records(digits_records, tmp_path):
  """A copy of the prepared digits that a test may corrupt."""
  return shutil.copytree(digits_records, tmp_path / "records")


def _relabel(path, label):
  """Gives the file's first record another label."""
  first, *others = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
  example = tf.train.Example.FromString(first)
  example.features.feature["image/class/label"].int64_list.value[0] = label
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in (example.SerializeToString(), *others):
      writer.write(record)


def _empty(records):
  (records / "train-00000-of-00004").write_bytes(b"")


def _truncate(records):
  path = records / "train-00000-of-00004"
  path.write_bytes(path.read_bytes()[:5000])


def _wrong_label(records):
  _relabel(records / "train-00000-of-00004", 10)


def _remove(records):
  for path in records.glob("train-*"):
    path.unlink()


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
  ("corrupt", "texts"),
  [
    (_remove, ["No data file matches", "train-*"]),
    (_empty, ["train-00000-of-00004", "empty"]),
    (_truncate, ["train-00000-of-00004", "truncated"]),
    (_wrong_label, ["record 0 of", "10"]),
  ],
)
def test_corrupt_data(programs, records, tmp_path, driver, corrupt, texts):
  corrupt(records)
  done = programs.run(driver, *_args(records, tmp_path / "run"))
  _assert_refused(done, *texts)


def test_corrupt_records_within_the_limit_do_not_stop(programs, records, tmp_path):
  """In a folder whose name is a pattern, beside one that the pattern matches."""
  folder = records.rename(tmp_path / "set[12], small")
  (tmp_path / "set1, small").mkdir()
  path = folder / "train-00000-of-00004"
  shard = [len(record.numpy()) + 16 for record in tf.data.TFRecordDataset(str(path))]
  start = sum(shard[:5])
  content = bytearray(path.read_bytes())
  content[start + 40 : start + 43] = bytes(b ^ 255 for b in content[start + 40 :][:3])
  path.write_bytes(content)
  short = ["train_epochs = 0.1", "log_every_steps = 1"]
  done = programs.run(DRIVERS[0], *_args(folder, tmp_path / "run", bindings=short))
  assert done.returncode == 0, done.output[-3000:]
  assert f"record 5 of '{path}' (at byte {start}) is corrupt" in done.output
  none = _args(folder, tmp_path / "no", bindings=[*short, "max_corrupt_records = 0"])
  _assert_refused(programs.run(DRIVERS[0], *none), "record 5 of", "max_corrupt_records")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
  ("more", "bindings", "texts"),
  [
    (
      ["--experiment=mobilenet_v2_klassification"],
      (),
      ["'mobilenet_v2_classification'"],
    ),
    ((), ["lerning_rate = 1.0"], ["'lerning_rate'", "'learning_rate'"]),
    ((), ["compute_dtype = 'float16'"], ["float16", "bfloat16"]),
    ((), ["distribution_strategy = 'mirored'"], ["'mirored'", "'mirrored'"]),
    (
      ["--params_override=task.train_data.global_batch_size=0"],
      (),
      ["task.train_data.global_batch_size"],
    ),
    (
      ["--params_override=trainer.train_steps=2.5"],
      (),
      ["trainer.train_steps is 2.5; it must be a whole number"],
    ),
    (["--params_override=trainer.train_stepz=3"], (), ["train_stepz", "train_steps"]),
    ((), ["batch_size = -4"], ["-4"]),
    (
      ["--mode=train_and_eval"],
      ["num_validation_examples = 50000"],
      ["validation-00000-of-00001", "holds 359 records", "says 50,000", "to 359"],
    ),
    ((), ["flip = false"], ["flip = false", "True, False"]),
    ((), ["init_checkpoint = 'no.h5'"], ["init_checkpoint is 'no.h5'", "is missing"]),
    (
      ["--params_override={trainer: {train_steps: 3}"],
      (),
      ["--params_override, line 1", "no valid YAML"],
    ),
  ],
  ids=lambda value: "",
)
def test_wrong_settings(
  programs, digits_records, tmp_path, driver, more, bindings, texts
):
  args = _args(digits_records, tmp_path / "run", *more, bindings=bindings)
  done = programs.run(driver, *args)
  _assert_refused(done, *texts)


@pytest.mark.parametrize("driver", DRIVERS)
def test_hpu_where_there_is_none(programs, digits_records, tmp_path, driver):
  args = _args(
    digits_records, tmp_path / "run", bindings=["distribution_strategy = 'hpu'"]
  )
  done = programs.run(driver, *args)
  _assert_refused(done, "hpu", "one_device")


def test_folder_of_another_run(programs, digits_records, tmp_path):
  short = ["train_epochs = 0.1", "log_every_steps = 1"]
  run = tmp_path / "run"
  args = _args(digits_records, run, bindings=short)
  done = programs.run(DRIVERS[0], *args)
  assert done.returncode == 0, done.output[-3000:]

  args = _args(digits_records, run, bindings=[*short, "learning_rate = 0.5"])
  _assert_refused(
    programs.run(DRIVERS[0], *args),
    "initial_learning_rate: 0.004 -> 0.5",
    "allow_config_change",
  )
  args = _args(digits_records, run, bindings=[*short, "width_multiplier = 0.5"])
  _assert_refused(programs.run(DRIVERS[0], *args), "another network")


def test_evaluating_nothing(programs, digits_records, tmp_path):
  args = _args(digits_records, tmp_path / "none", "--mode=eval")
  for driver in DRIVERS:
    _assert_refused(programs.run(driver, *args), "nothing to evaluate")


def _file_in_the_way(tmp_path):
  (tmp_path / "file").touch()
  return tmp_path / "file" / "run", "--model_dir", "cannot be a folder"


def _url(tmp_path):
  return "s3://bucket/run", "--model_dir", "no file system for s3://"


def _pattern(tmp_path):
  return tmp_path / "run[1]", "run[1]'", "for a pattern", "Rename"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("place", [_file_in_the_way, _url, _pattern])
def test_model_dir_that_cannot_be_written(
  programs, digits_records, tmp_path, driver, place
):
  model_dir, *texts = place(tmp_path)
  done = programs.run(driver, *_args(digits_records, model_dir))
  _assert_refused(done, *texts)


@pytest.mark.parametrize("driver", DRIVERS)
def test_home_folders_in_flags_and_gin(programs, digits_records, tmp_path, driver):
  shutil.copytree(digits_records, tmp_path / "data")
  args = [
    *_args("~/data", "~/run", bindings=["batch_size = -4"]),
    "--params_override=trainer.train_steps=1",
  ]
  # Refused for the batch: data and run were found before.
  done = programs.run(driver, *args, env={"HOME": str(tmp_path)})
  _assert_refused(done, "-4")
  assert not (ROOT / "~").exists()


@pytest.mark.parametrize(
  ("experiment", "overlay"),
  [
    ("retinanet_resnetfpn_coco", "retinanet.yaml"),
    ("mnv2_deeplabv3_pascal", "semantic_segmentation.yaml"),
  ],
)
def test_default_data_of_the_model_garden(programs, tmp_path, experiment, overlay):
  done = programs.run(
    helpers_programs.STOCK_DRIVER,
    f"--experiment={experiment}",
    "--gin_file=gin/plugin.gin",
    f"--config_file=gin/swap/{overlay}",
    "--mode=train_and_eval",
    f"--model_dir={tmp_path / 'run'}",
  )
  _assert_refused(done, "no data file matches", "task.train_data.input_path")


# What each command reads, and what else it must be given.
READERS = {
  "evaluate": ["--model_dir={path}"],
  "export": ["--model_dir={path}", "--export_dir={tmp}/out"],
  "import_checkpoint": ["--checkpoint={path}", "--output_dir={tmp}/out"],
  "prepare_data": ["--input_dir={path}", "--output_dir={tmp}/out"],
  "report": ["--model_dir={path}", "--export_dir={path}", "--output_dir={tmp}/out"],
  "verify_data": ["--data_dir={path}"],
}


def _read(programs, command, path, tmp_path):
  flags = [flag.format(path=path, tmp=tmp_path) for flag in READERS[command]]
  return programs.run(f"mnv2_hpu.cli.{command}", *flags)


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("place", ["missing", "file", "file/below", "empty"])
def test_path_that_cannot_be_read(programs, tmp_path, command, place):
  (tmp_path / "file").write_text("text")
  (tmp_path / "empty").mkdir()
  path = tmp_path / place
  _assert_refused(_read(programs, command, path, tmp_path), str(path))


@pytest.mark.parametrize("command", ["evaluate", "export", "report"])
@pytest.mark.parametrize(
  "content",
  ["", '{"config": {"task":', '["config"]', '{"config": 3}'],
  ids=["empty", "half", "list", "number"],
)
def test_run_record_that_cannot_be_read(programs, tmp_path, command, content):
  (tmp_path / "run_record.json").write_text(content)
  _assert_refused(_read(programs, command, tmp_path, tmp_path), str(tmp_path))


def test_unknown_flag_is_named(programs, tmp_path):
  done = programs.run(DRIVERS[0], "--modeldir=x")
  assert done.returncode == 1
  assert "modeldir" in done.output
  assert "model_dir" in done.output
