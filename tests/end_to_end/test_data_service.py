"""The command that starts a data service, and trainings that read from one."""

import json
import re
import signal
import socket

import helpers_data_service
import helpers_short_runs
import pytest

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
