"""Runs a function over the shards, one after the other or over several processes."""

import concurrent.futures
import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar

from mnv2_hpu.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

_SEQUENTIAL_BELOW = 5_000  # images: fewer are done before several processes have begun
_PRELOADED = ["tensorflow"]


def choose_processes(requested: int, num_tasks: int, num_images: int) -> int:
  """Returns how many processes to use.

  Args:
    requested: Number of processes; 0 chooses: one for few images, otherwise one per
      processor.
    num_tasks: Number of shards.
    num_images: Images in all of these shards.

  Raises:
    UserError: If the request is negative.
  """
  if requested < 0:
    raise UserError(
      f"--num_processes={requested}: allowed are 1 and more, or 0 to have it chosen."
    )
  few = num_images < _SEQUENTIAL_BELOW
  wanted = requested or (1 if few else len(os.sched_getaffinity(0)))
  return max(min(wanted, num_tasks), 1)


def run(
  function: Callable[[Task], Result], tasks: Sequence[Task], num_processes: int
) -> Iterator[tuple[Task, Result]]:
  """Yields each task with its result, in the order they finish.

  Args:
    function: Picklable, as are its tasks and results.
    tasks: One for each shard.
    num_processes: Number of processes; 1 runs the tasks in this one.

  Raises:
    Exception: That of the first task that failed, after those under way have ended.
    UserError: If a process was killed, as the system does when memory runs out.
  """
  if num_processes == 1:
    for task in tasks:
      yield task, function(task)
    return
  # TensorFlow takes seconds to import: once in the server, from which workers fork.
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(_PRELOADED)
  executor = concurrent.futures.ProcessPoolExecutor(
    num_processes, mp_context=context, initializer=_init_worker
  )
  try:
    futures = {executor.submit(function, task): task for task in tasks}
    for future in concurrent.futures.as_completed(futures):
      yield futures.pop(future), future.result()
  except BrokenProcessPool as error:
    raise UserError(
      "a worker process was killed, most likely because memory ran out. What is "
      "finished is kept: run the same command again, with a smaller --num_processes "
      f"than {num_processes}."
    ) from error
  finally:
    executor.shutdown(cancel_futures=True)


def _init_worker() -> None:
  """Hides GPUs, and ends this worker when the main process is killed."""
  import tensorflow as tf

  gc.freeze()  # a collection writes to all it inherited: 45 MiB a worker, shared before
  tf.config.set_visible_devices([], "GPU")  # whose memory decoding a PNG would take
  parent = multiprocessing.parent_process()
  if parent is None:
    return

  def watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)

  threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
