"""The trainer's side of the data service: hands a dataset over, and reads it."""

import re
import threading
import time
import warnings

import tensorflow as tf
from absl import logging
from official.core import config_definitions as cfg

from mnv2_hpu.data_service import address
from mnv2_hpu.errors import UserError
from mnv2_hpu.native import library

_CONNECT_SECONDS = 5.0  # within which a dispatcher must listen
_PROBE_SECONDS = 30.0  # within which a worker must have answered

_OTHERS_SECONDS = 2.0  # for the other workers' errors; one that was lost never answers

_NO_OPERATION = re.compile(r"Op type not registered '(\w+)'")


def distribute(dataset: tf.data.Dataset, service_address: str) -> tf.data.Dataset:
  """Returns what a service's workers read of a dataset: each split once, by one.

  The splits are the elements of the dataset's source. May be called in a function of
  tf.data; each iteration is then a job of its own, which nobody shares.

  Args:
    dataset: What workers do; captures nothing but tensors.
    service_address: `grpc://host:port` of the dispatcher.

  Returns:
    The elements, in no fixed order.
  """
  service = tf.data.experimental.service
  apply = service.distribute(
    service.ShardingPolicy.DYNAMIC,
    address.parse(service_address, "service_address").target,
    # Distorted float images hardly get smaller, and take long to try.
    compression=None,
  )
  with warnings.catch_warnings():
    # TensorFlow's own look at the options, in a function of tf.data.
    warnings.filterwarnings("ignore", "To make it possible to preserve tf.data options")
    return dataset.apply(apply)


def check(data: cfg.DataConfig) -> None:
  """Checks that a service answers and has workers, by a dataset of one number.

  Turns the operations in C++ off where a process of the service lacks them.

  Args:
    data: Training's input, with `service_address`.

  Raises:
    UserError: Naming the address, and the command that starts a service.
  """
  target = address.parse(data.service_address, "service_address")
  address.own_host_seen_from(target, _CONNECT_SECONDS)
  answers, problem = _probe(data.service_address)
  if isinstance(problem, tf.errors.NotFoundError) and _NO_OPERATION.search(
    f"{problem}"
  ):
    reason = f"the data service at {target.target} lacks those in C++ on some host"
    library.turn_off(reason)
    logging.warning(
      "Images are distorted by TensorFlow's operations: %s. Run "
      "`python -m mnv2_hpu.native.build` on each, and start the service again.",
      reason,
    )
  elif problem is not None:
    first_line = str(problem).partition("\n")[0]
    raise UserError(
      f"the data service at {target.target} cannot be used: {first_line}"
    ) from problem
  elif not answers:
    raise UserError(
      f"the data service at {target.target} has no worker: nothing came within "
      f"{_PROBE_SECONDS:g} seconds. Start one: mnv2-data-service worker "
      f"--dispatcher={target}"
    )


def _probe(service_address: str) -> tuple[list[int], Exception | None]:
  """Returns what the service has answered in time, and the error that ended it."""
  answers: list[int] = []
  problems: list[Exception] = []
  operations = library.load()

  def use_operations(number: tf.Tensor) -> tf.Tensor:
    if operations is None:
      return number
    image = operations.mnv2_hpu_distort_crop(
      crop=tf.zeros([1, 1, 3], tf.uint8),
      flip=False,
      brightness_delta=0.0,
      saturation_factor=1.0,
      height=1,
      width=1,
    )
    return number + tf.size(image, tf.int64)

  def read() -> None:
    try:
      with tf.device("CPU:0"):
        dataset = tf.data.Dataset.range(1).map(use_operations)
        for number in distribute(dataset, service_address):
          answers.append(int(number))
    except tf.errors.OpError as error:
      problems.append(error)

  # A read cannot be given up: this thread waits as long as the process lives.
  thread = threading.Thread(target=read, daemon=True)
  thread.start()
  deadline = time.monotonic() + _PROBE_SECONDS
  while thread.is_alive() and time.monotonic() < deadline:
    thread.join(_OTHERS_SECONDS)
    if answers:
      break
  return answers, next(iter(problems), None)
