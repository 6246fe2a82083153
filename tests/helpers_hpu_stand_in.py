"""The CPU in a device's place, for what runs on devices. All else is the real thing.

  python -m helpers_hpu_stand_in official.vision.train --experiment=…
  python -m helpers_hpu_stand_in --ranks=2 official.vision.train --experiment=…

runs a module as `python -m` would, with Habana's real bridge imported and three things
replaced, which together are the device:

* `load_habana_module()`, which opens the device;
* the name of the device: the bridge's strategy is compiled from its own source with CPU
  for HPU (`STRATEGY_LINES` are the lines that differ);
* the two operations by which devices find each other: they have kernels for HPU only.

`--ranks` is a small mpirun: so many processes with the variables of Open MPI, forked
after everything is imported. Several ranks need free ports: bind
`mnv2_hpu.cluster.port` to the first of `cluster.free_ports(ranks)`.
"""

import atexit
import importlib.util
import os
import pathlib
import runpy
import sys
import types

STRATEGY_LINES = (
  ('with tf.device("/device:HPU:0"):', 'with tf.device("/device:CPU:0"):'),
  ('with tf.device("/device:HPU:0"):', 'with tf.device("/device:CPU:0"):'),
  ('f"{worker_device}/device:HPU:0",)', 'f"{worker_device}/device:CPU:0",)'),
  ('return local_devices, "HPU"', 'return local_devices, "CPU"'),
)


def strategy_path():
  """The bridge's file that holds HPUStrategy; imports only the package above it."""
  package = importlib.util.find_spec("habana_frameworks.tensorflow.distribute")
  return pathlib.Path(package.origin).with_name("_hpu_strategy.py")


def with_cpu(source):
  """Returns the source of the bridge's strategy with CPU for HPU."""
  return source.replace("HPU:0", "CPU:0").replace('"HPU"', '"CPU"')


def install():
  """Puts the CPU in the device's place in this process. Runs no operation."""
  import habana_frameworks.tensorflow as bridge
  import tensorflow as tf

  from mnv2_hpu.distribute import habana

  path = strategy_path()
  name = "habana_frameworks.tensorflow.distribute._hpu_strategy"
  module = types.ModuleType(name)
  module.__file__, module.__package__ = str(path), name.rpartition(".")[0]
  exec(compile(with_cpu(path.read_text()), str(path), "exec"), module.__dict__)
  sys.modules[name] = module
  handshake = types.SimpleNamespace(
    CollectiveCommHandshakeProducer=lambda: tf.zeros([1], tf.int32),
    CollectiveCommHandshakeConsumer=lambda i: tf.identity(i),
  )
  bridge.load_habana_module = lambda: bridge.habana_ops.initialize(handshake)
  habana.DEVICE_TYPE = "CPU"


def _run(module, args):
  """Runs a module as a program; returns its exit code."""
  sys.argv = [module, *args]
  try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  except SystemExit as stop:
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
  except BaseException:
    sys.excepthook(*sys.exc_info())
    return 1
  return 0


def _start_rank(rank, ranks, module, args):
  child = os.fork()
  if child:
    return child
  for name, value in (("RANK", rank), ("SIZE", ranks)):
    os.environ[f"OMPI_COMM_WORLD_{name}"] = str(value)
    os.environ[f"OMPI_COMM_WORLD_LOCAL_{name}"] = str(value)
  code = _run(module, args)
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _run_ranks(ranks, module, args):
  """Runs all ranks; the first that fails ends the others, as mpirun does."""
  running = {_start_rank(rank, ranks, module, args) for rank in range(ranks)}
  code = 0
  while running:
    child, status = os.wait()
    running.discard(child)
    code = code or os.waitstatus_to_exitcode(status)
    if code:
      for other in running:
        os.kill(other, 9)
  return code


def main():
  """Runs what the command line names; see the docstring of this module."""
  args = sys.argv[1:]
  ranks = int(args.pop(0).split("=")[1]) if args[0].startswith("--ranks=") else 0
  install()
  if ranks:
    sys.exit(_run_ranks(ranks, *args[:1], args[1:]))
  sys.exit(_run(args[0], args[1:]))


if __name__ == "__main__":
  main()
