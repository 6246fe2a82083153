"""How programs end that trained: real processes, with TensorFlow's part played."""

import subprocess
import sys

import pytest

# What is destroyed stands for an iterator, whose destructor may take a minute.
_PROGRAM = """
import atexit, sys
from mnv2_hpu.core import termination

class Iterator:
  def __del__(self):
    print("destroyed")

def train():
  termination.skip_teardown_at_exit(keep=Iterator())

atexit.register(print, "flushed first", end=".")
train()
atexit.register(print, "flushed last", end=", ")
print("the last line", end=", ")
"""


@pytest.mark.parametrize(
  ("end", "code"),
  [
    ("sys.exit()", 0),
    ("sys.exit(0)", 0),
    ("sys.exit(3)", 3),
    ("sys.exit('a reason')", 1),
    ("1 / 0", 1),
    ("raise KeyboardInterrupt", 130),
    ("termination.mark_finished()", 0),
    ("termination.end_process(143)", 143),
  ],
)
def test_program_ends_with_its_code_and_destroys_nothing(end, code):
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM + end], capture_output=True, text=True
  )
  assert done.returncode == code, done.stderr
  assert done.stdout.startswith("the last line, flushed last, ")
  assert done.stdout.endswith("flushed first.")
  assert "destroyed" not in done.stdout


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_that_looked_exit_up_before_keeps_its_code(code):
  program = _PROGRAM.replace("train()\natexit", "atexit", 1)
  end = f"def main():\n  train()\n  return {code}\nsys.exit(main())"
  done = subprocess.run([sys.executable, "-c", program + end])
  assert done.returncode == code


def test_a_stop_request_waits_for_the_state_to_be_saved():
  program = """
import os, signal
from mnv2_hpu.core import termination
stop = termination.StopRequest()
stop.listen()
stop.defer()
os.kill(os.getpid(), signal.SIGUSR1)
print(stop.is_set)
os.kill(os.getpid(), signal.SIGUSR1)  # a second one ends it at once
"""
  done = subprocess.run(
    [sys.executable, "-uc", program], capture_output=True, text=True
  )
  assert done.stdout == "True\n"
  assert "SIGUSR1: a checkpoint will be saved" in done.stderr
  assert done.returncode == -10


def test_a_process_that_is_stuck_in_tensorflow_ends_after_its_time():
  """Python would run the handler once the operation ends, which it never does."""
  program = """
import os, signal, threading
import tensorflow as tf
from mnv2_hpu.core import termination
stop = termination.StopRequest(max_seconds=1)
stop.listen()
stop.defer()
threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
tf.queue.FIFOQueue(1, tf.int32).dequeue()
"""
  done = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True
  )
  assert done.returncode == 75
  assert "No step ended within 1 seconds of the signal" in done.stderr
