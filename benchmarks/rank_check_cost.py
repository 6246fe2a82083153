"""What it costs to check that ranks hold the same model, and to broadcast it.

  .venv/bin/python benchmarks/rank_check_cost.py

Two workers on this machine (multi_worker_mirrored, CPU) hold MobileNetV2 1.0 with
RMSProp's slots and the averages. Prints the milliseconds of a check and of a broadcast,
and how long a step must take for a check every 2,000 steps to cost less than 0.5 %.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time

from mnv2_hpu import tf_environment

tf_environment.configure()

REPEATS = 15
INTERVAL = 2000  # mnv2_hpu.Trainer.check_ranks_interval
SHARE = 0.005


def _milliseconds(function, repeats):
  """Returns the median and the least time of a call; the first is not counted."""
  times = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    function()
    times.append(1000 * (time.perf_counter() - start))
  return statistics.median(times[1:]), min(times[1:])


def _rank():
  import tensorflow as tf
  from official.core import task_factory

  import mnv2_hpu
  from mnv2_hpu.configs import image_classification
  from mnv2_hpu.configs.recipe import Recipe
  from mnv2_hpu.distribute import rank_check, ranks, variable_sync

  mnv2_hpu.register()
  strategy = tf.distribute.MultiWorkerMirroredStrategy()
  recipe = Recipe(data_dir="/data", num_classes=1001, num_train_examples=1_281_167)
  params = image_classification.experiment(recipe)
  with strategy.scope():
    task = task_factory.get_task(params.task)
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
    optimizer.shadow_copy(model)
    variable_sync.create_slots(optimizer, model.trainable_variables)
    variables = variable_sync.trained_variables(
      tf.train.Checkpoint(model=model, optimizer=optimizer)
    )
  size = sum(ranks.local_value(strategy, v).nbytes for v in variables)
  check = _milliseconds(lambda: rank_check.check(strategy, variables, step=0), REPEATS)
  own = _milliseconds(
    lambda: [rank_check.checksum(ranks.local_value(strategy, v)) for v in variables],
    REPEATS,
  )
  broadcast = _milliseconds(
    lambda: ranks.broadcast_variables(strategy, variables), REPEATS // 3
  )
  if ranks.rank(strategy) == 0:
    print(f"{len(variables)} variables, {size / 1e6:.1f} MB; 2 workers on this machine")
    for name, (median, least) in (
      ("check", check),
      ("of it own checksums", own),
      ("broadcast", broadcast),
    ):
      print(f"{name}: {median:.0f} ms (least {least:.0f})")
    step = check[0] / INTERVAL / SHARE
    print(
      f"every {INTERVAL:,} steps: {check[0] / INTERVAL:.2f} ms a step; less than "
      f"{SHARE:.1%} where a step takes more than {step:.0f} ms"
    )


def main():
  """Starts the two workers."""
  if "TF_CONFIG" in os.environ:
    _rank()
    return
  probes = [socket.create_server(("localhost", 0)) for _ in range(2)]
  workers = [f"localhost:{probe.getsockname()[1]}" for probe in probes]
  for probe in probes:
    probe.close()
  started = []
  for index in range(2):
    config = {
      "cluster": {"worker": workers},
      "task": {"type": "worker", "index": index},
    }
    environ = {**os.environ, "TF_CONFIG": json.dumps(config)}
    started.append(subprocess.Popen([sys.executable, __file__], env=environ))
  sys.exit(max(abs(one.wait()) for one in started))


if __name__ == "__main__":
  main()
