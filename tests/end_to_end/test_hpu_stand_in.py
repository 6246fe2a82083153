"""Habana's own strategy through the drivers, with the CPU in a device's place."""

import helpers_programs
import pytest
import tensorflow as tf

from mnv2_hpu import cluster, compat

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    compat.version("habana-tensorflow") is None,
    reason="habana-tensorflow has wheels for Python 3.10 only",
  ),
]


def _small(digits_records, model_dir, *bindings):
  recipe = "mobilenet_v2_classification"
  small = {"log_every_steps": 2, "image_size": 32, "checkpoint_every_epochs": 0.05}
  params = [f"{recipe}.{name} = {value}" for name, value in small.items()]
  return [
    "--gin_file=gin/digits.gin",
    f"--model_dir={model_dir}",
    *(f"--gin_params={param}" for param in (*params, *bindings)),
  ]


def _step(model_dir):
  checkpoint = tf.train.latest_checkpoint(str(model_dir))
  return int(
    tf.train.load_variable(checkpoint, "global_step/.ATTRIBUTES/VARIABLE_VALUE")
  )


def test_one_device_by_the_launchers_flags(programs, digits_records, tmp_path):
  done = programs.run(
    "helpers_hpu_stand_in",
    "helpers_small_network",
    "mnv2_hpu.cli.demo_mobilenetv2",
    "--device=hpu",
    f"--dataset_dir={digits_records}",
    "--dtype=bf16",
    "--batch_size=32",
    "--max_number_of_steps=2",
    *_small(digits_records, tmp_path),
  )

  assert done.returncode == 0, done.output[-3000:]
  assert "OneDeviceStrategy" in done.output
  assert "bfloat16" in done.output
  assert _step(tmp_path) == 2


def test_two_devices_through_the_stock_driver(programs, digits_records, tmp_path):
  port, _ = cluster.free_ports(2)
  done = programs.run(
    "helpers_hpu_stand_in",
    "--ranks=2",
    "helpers_small_network",
    helpers_programs.STOCK_DRIVER,
    "--experiment=mobilenet_v2_classification",
    "--mode=train",
    "--params_override=trainer.train_steps=2",
    *_small(
      digits_records,
      tmp_path,
      f"DATA_DIR = '{digits_records}'",
      "mobilenet_v2_classification.batch_size = 16",
      "mobilenet_v2_classification.distribution_strategy = 'hpu'",
      f"mnv2_hpu.cluster.port = {port}",
    ),
  )

  assert done.returncode == 0, done.output[-3000:]
  assert "CollectiveAllReduceStrategy, 2 processes" in done.output
  assert "32 on 2 replicas" in done.output
  assert "PreemptionCheckpointHandler" not in done.output
  assert _step(tmp_path) == 2
