"""What happens in the folder of a run that another process trains: its checkpoints.

The folder's list names a checkpoint once all of its bytes are on the disk; the training
may delete it again at any moment.
"""

import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from mnv2_hpu.core import run_record
from mnv2_hpu.errors import UserError

_POLL_SECONDS = 1.0
_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_TO_START_AGAIN = 60.0  # that a killed training has, as by mnv2-launch


@dataclasses.dataclass(frozen=True)
class Written:
  """A checkpoint: its step, and when it was written, in seconds since 1970.

  Of two trainings in one folder, one after the other, both may have the same step.
  """

  step: int
  time: float


class RunWatcher:
  """What happens in the folder of a run, and what to say while nothing does.

  Args:
    model_dir: Folder of the run; it may not exist yet.
    timeout: Seconds to wait for a run, or for its next checkpoint.
    say: Prints a line.

  Raises:
    UserError: If the folder's parent does not exist.
  """

  def __init__(
    self,
    model_dir: str,
    timeout: float,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
  ) -> None:
    parent = os.path.dirname(os.path.abspath(model_dir))
    if "://" not in model_dir and not os.path.isdir(parent):
      raise UserError(
        f"--model_dir={model_dir!r} lies in {parent!r}, which does not exist: no run "
        "will appear there. Give the folder that the training has as --model_dir."
      )
    self._model_dir = model_dir
    self._timeout = timeout
    self._say = say

  def wait_for_run(self) -> None:
    """Returns once a training has recorded itself and written a checkpoint.

    Raises:
      UserError: If none does in time, or it ends before.
    """
    record = os.path.join(self._model_dir, run_record.FILE)
    if not tf.io.gfile.exists(record):
      self._say(f"waits for a training to begin in {self._model_dir}")
    self._wait(lambda: tf.io.gfile.exists(record) or None, "a training to begin")
    self._wait(lambda: self._listed() or None, "the first checkpoint")

  def checkpoints(
    self, evaluated: Mapping[Written, Any]
  ) -> Iterator[tuple[str, Written]]:
    """Yields each checkpoint that was not evaluated, oldest first, until the run ends.

    Args:
      evaluated: The caller adds what it was given; one that it does not add, because
        its files are gone, is not given again.

    Raises:
      UserError: If the training is gone without having finished, or no checkpoint
        comes in time.
    """
    given = set(evaluated)
    newest = 0

    def next_one() -> tuple[str, Written] | bool | None:
      is_finished = self._is_finished()  # before the list, so that its last is seen
      for path, written in self._listed().items():
        if written not in given:
          return path, written
      return is_finished or None

    while True:
      found = self._wait(next_one, f"a checkpoint after step {newest:,}")
      if found is True:
        return
      path, written = found
      given.add(written)
      newest = max(newest, written.step)
      yield path, written

  def _is_finished(self) -> bool:
    return run_record.finished_step(self._model_dir) is not None

  def _listed(self) -> dict[str, Written]:
    """Returns the checkpoints that the folder lists, oldest first."""
    try:
      state = tf.train.get_checkpoint_state(self._model_dir)
    except ValueError:  # an empty list, as a crash of the machine leaves it
      return {}
    listed = {}
    for path in state.all_model_checkpoint_paths if state else ():
      number = re.search(r"-(\d+)$", path)
      if number is None:
        continue
      try:
        changed = tf.io.gfile.stat(f"{path}.index").mtime_nsec / 1e9
      except tf.errors.NotFoundError:  # deleted since the list was read
        continue
      listed[path] = Written(int(number[1]), round(changed, 3))
    return listed

  def _wait(self, condition: Callable[[], Any], what: str) -> Any:
    """Returns what the condition does once it is not None.

    Raises:
      UserError: If that takes longer than the timeout, or the training is gone.
    """
    start = said = time.monotonic()
    gone_since: float | None = None
    while (found := condition()) is None:
      now = time.monotonic()
      holder = run_record.lost_holder(self._model_dir)
      if holder and gone_since is None:
        self._say(
          f"{holder} no longer trains in {self._model_dir}, and has not finished; "
          f"waits {_SECONDS_TO_START_AGAIN:.0f} s for it to be started again"
        )
      gone_since = (gone_since or now) if holder else None
      if gone_since and now - gone_since >= _SECONDS_TO_START_AGAIN:
        raise UserError(
          f"the training in {self._model_dir!r} is gone without having finished: "
          f"{holder} no longer runs. All of its checkpoints that can be read are "
          "evaluated. Start it again, and then this command."
        )
      if now - start >= self._timeout:
        raise UserError(
          f"waited {self._timeout:,.0f} s for {what} in {self._model_dir!r}, in vain. "
          "Is it the folder of the training? --timeout says how long to wait."
        )
      if now - said >= _SECONDS_BETWEEN_LINES:
        self._say(
          f"waits for {what} in {self._model_dir}, for {(now - start) / 60:.0f} of at "
          f"most {self._timeout / 60:.0f} minutes"
        )
        said = now
      time.sleep(_POLL_SECONDS)
    return found
