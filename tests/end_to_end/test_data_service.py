"""The command that starts a data service, and trainings that read from one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import helpers_data_service
import helpers_programs
import helpers_record_files
import helpers_segmentation_records
import helpers_short_runs
import numpy as np
import pytest
from helpers_detection_records import detection_record, write_records

from mnv2_hpu import cluster
from mnv2_hpu.native import library

pytestmark = [pytest.mark.slow, pytest.mark.checkout]

COMMAND = "mnv2_hpu.cli.data_service"


@pytest.fixture(scope="module")
def service():
  """The address of a dispatcher with two workers, of one process that is stopped.

  It has no operations in C++, which trainers may have.
  """
  (port,) = cluster.free_ports(1)
  process = helpers_data_service.start(
    "--workers=2", f"--port={port}", **{library.SWITCH: "0"}
  )
  with process:
    assert f":{port}" in helpers_data_service.wait_until_up(process)
    assert process.stdout.readline() == "mnv2-data-service: 2 workers joined so far\n"
    yield f"grpc://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert process.stdout.read() == "mnv2-data-service: stops\n"


def _arguments(records, model_dir, address, **settings):
  return helpers_short_runs.arguments(
    "mobilenet_v2_classification",
    "gin/digits.gin",
    records,
    model_dir,
    mode="train_and_eval",
    settings={
      "service_address": f"'{address}'",
      "deterministic": False,
      "cache": False,
      "batch_size": 32,
      "image_size": 32,
      "log_every_steps": 4,
      "train_epochs": 8 * 32 / 1438,
      "eval_every_epochs": 1,
      **settings,
    },
  )


def test_a_training_by_the_stock_driver_reads_from_it(
  digits_records, service, programs, tmp_path
):
  output = helpers_short_runs.run(
    programs, _arguments(digits_records, tmp_path / "run", service)
  )

  assert f"read by the data service at {service}" in output
  if library.load() is not None:
    assert f"the data service at {service} lacks those in C++ on some host" in output
  finished = json.loads((tmp_path / "run/finished.json").read_text())
  assert finished["step"] == 8
  (losses,) = [helpers_short_runs.validation(tmp_path / "run")["validation_loss"]]
  assert all(0 < value < 100 for _, value in losses)


@pytest.mark.long("two processes that each import TensorFlow and trace, on one core")
def test_two_ranks_read_each_record_once_an_epoch(service, tmp_path):
  """A rank has jobs of its own, of its half of the files."""
  records, read = tmp_path / "records", tmp_path / "read"
  for folder in (records, read):
    folder.mkdir()
  helpers_record_files.write_files(records, [20] * 4)
  settings = {
    "service_address": f"'{service}'",
    "deterministic": False,
    "cache": False,
    "distribution_strategy": "'multi_worker_mirrored'",
    "num_classes": 80,
    "num_train_examples": 80,
    "num_validation_examples": 80,
    "validation_files": "'train-*'",
    "shuffle_buffer_size": 5,
    "batch_size": 8,
    "image_size": 32,
    "log_every_steps": 5,
    "train_epochs": 2,
  }
  done = subprocess.run(
    [
      *(sys.executable, "-m", "mnv2_hpu.cli.launch", "--np=2", "--"),
      *(sys.executable, "-W", "ignore", "-m", "helpers_recorded_labels", read),
      helpers_programs.STOCK_DRIVER,
      *helpers_short_runs.arguments(
        "mobilenet_v2_classification",
        "gin/digits.gin",
        records,
        tmp_path / "run",
        mode="train",
        settings=settings,
      ),
    ],
    cwd=helpers_programs.ROOT,
    env={**os.environ, "PYTHONPATH": str(helpers_programs.TESTS)},
    capture_output=True,
    text=True,
    check=False,
  )

  assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
  labels = [np.loadtxt(read / str(rank), np.int64) for rank in range(2)]
  for epoch in range(2):
    batches = slice(5 * epoch, 5 * (epoch + 1))  # five batches of 8 are a rank's half
    of_ranks = [of_rank[batches].ravel() for of_rank in labels]
    np.testing.assert_array_equal(np.sort(np.concatenate(of_ranks)), np.arange(80))


def _train_four_steps(programs, address, experiment, gin_file, records, **settings):
  """Trains two epochs of two steps; returns what was printed."""
  model_dir = records / "run"
  shared = {
    "service_address": f"'{address}'",
    "deterministic": False,
    "batch_size": 4,
    "eval_batch_size": 2,
    "log_every_steps": 2,
    "num_validation_examples": 2,
    "train_epochs": 2,
    "eval_every_epochs": 2,
  }
  output = helpers_short_runs.run(
    programs,
    helpers_short_runs.arguments(
      *(experiment, gin_file, records, model_dir),
      mode="train_and_eval",
      settings=shared | settings,
    ),
  )
  assert f"read by the data service at {address}" in output
  ((step, loss),) = helpers_short_runs.validation(model_dir)["validation_loss"]
  assert step == 4
  assert 0 < loss < 100
  return output


def test_a_segmentation_reads_from_it(service, programs, tmp_path):
  _train_four_steps(
    *(programs, service, "mobilenet_v2_deeplabv3plus", "gin/deeplabv3plus_voc.gin"),
    helpers_segmentation_records.write_scenes(tmp_path, 8, 2),
    aspp="'none'",
    image_size=65,
    num_classes=helpers_segmentation_records.NUM_CLASSES,
    num_train_examples=8,
  )


def test_a_detection_reads_from_it_and_skips_what_is_corrupt(
  service, programs, tmp_path
):
  box = [[0.2, 0.1, 0.7, 0.6]]
  records = [detection_record(str(i), box, [1 + i % 2]) for i in range(9)]
  records[4] = detection_record("4", box, [1], image=b"no image")
  write_records(tmp_path / "train-00000-of-00001", records)
  write_records(tmp_path / "validation-00000-of-00001", records[:2])
  output = _train_four_steps(
    *(programs, service, "mobilenet_v2_ssdlite", "gin/ssdlite.gin", tmp_path),
    image_size=96,
    num_classes=2,
    num_train_examples=len(records),
  )
  assert "corrupt record 1 of at most" in output


def test_a_training_without_dispatcher_ends_in_one_line(
  digits_records, programs, tmp_path
):
  (port,) = cluster.free_ports(1)
  address = f"grpc://localhost:{port}"

  done = programs.run(
    *helpers_short_runs.DRIVER, *_arguments(digits_records, tmp_path / "run", address)
  )

  assert done.returncode == 1
  assert re.search(rf"^error: no dispatcher .* at {address} .*$", done.output, re.M)
  assert f"mnv2-data-service dispatcher --port={port}" in done.output
  assert "Traceback" not in done.output


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([], "Allowed are: dispatcher; worker --dispatcher=HOST:PORT; --workers=N"),
    (["worker"], "Allowed are: dispatcher; worker --dispatcher=HOST:PORT"),
    (
      ["worker", "--dispatcher=loader"],
      "--dispatcher is 'loader', which is no address",
    ),
    (["worker", "--dispatcher=localhost:9", "--timeout=0"], "answers at grpc://local"),
  ],
)
def test_a_mistake_is_one_line(arguments, said, programs):
  done = programs.run(COMMAND, *arguments)

  assert done.returncode == 1
  (line,) = [line for line in done.output.splitlines() if line.startswith("error: ")]
  assert said in line
  assert "Traceback" not in done.output


def test_a_port_in_use_is_one_line(programs):
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    done = programs.run(COMMAND, "dispatcher", f"--port={port}")

  assert done.returncode == 1
  assert f"error: --port={port} cannot be used: Address already in use" in done.output
  assert "Traceback" not in done.output
