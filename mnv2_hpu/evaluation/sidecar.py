"""A sidecar: evaluates each checkpoint of a run that another process trains.

It shares nothing with the training but the model folder. The folder's list names a
checkpoint once all of its bytes are on the disk; the training may delete it again at
any moment, also while it is read here.
"""

import dataclasses
import datetime
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orbit
import tensorflow as tf
from absl import logging

from mnv2_hpu.core import checkpoint_integrity, run_record, trainer
from mnv2_hpu.errors import UserError

LOG_FILE = "evaluations.jsonl"
BEST_SUBDIR = "best"

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


class EvaluationLog:
  """The evaluations of a run by sidecars: one line of JSON each, in `LOG_FILE`.

  Attributes:
    metrics: Metrics of each checkpoint evaluated so far, in that order.

  Args:
    model_dir: Folder of the run.
  """

  def __init__(self, model_dir: str) -> None:
    self._path = os.path.join(model_dir, LOG_FILE)
    self.metrics: dict[Written, dict[str, float]] = {}
    if not tf.io.gfile.exists(self._path):
      return
    with tf.io.gfile.GFile(self._path) as file:
      lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
      try:
        entry = json.loads(line)
        written = Written(int(entry["step"]), float(entry["written"]))
        self.metrics[written] = dict(entry["metrics"])
      except (ValueError, KeyError, TypeError) as error:
        logging.warning("Line %d of %s is ignored: %r.", number, self._path, error)

  def add(self, written: Written, metrics: dict[str, float], seconds: float) -> None:
    """Appends one evaluation."""
    self.metrics[written] = metrics
    now = datetime.datetime.now(datetime.timezone.utc)
    entry = {
      "step": written.step,
      "written": written.time,
      "evaluated": now.isoformat(" ", "seconds"),
      "seconds": round(seconds, 3),
      "metrics": metrics,
    }
    # A line that a kill has cut off ends before this one begins.
    prefix = "" if self._ends_a_line() else "\n"
    with tf.io.gfile.GFile(self._path, "a") as file:
      file.write(f"{prefix}{json.dumps(entry)}\n")

  def _ends_a_line(self) -> bool:
    if not tf.io.gfile.exists(self._path):
      return True
    with tf.io.gfile.GFile(self._path, "rb") as file:
      size = file.size()
      file.seek(max(size - 1, 0))
      return file.read() in (b"", b"\n")

  def skipped(self, interval: int) -> list[int]:
    """Returns the steps whose checkpoints were gone when their turn came.

    Args:
      interval: Steps between two checkpoints of the run.
    """
    steps = {written.step for written in self.metrics}
    return [
      s for s in range(interval, max(steps, default=0), interval) if s not in steps
    ]


class Sidecar:
  """Evaluates checkpoints as they are given; keeps the best; says each result.

  Args:
    evaluating: Trainer of the run, built to evaluate; saves the best checkpoint.
    model_dir: Folder of the run.
    log: Its evaluations so far.
  """

  def __init__(
    self, evaluating: trainer.Trainer, model_dir: str, log: EvaluationLog
  ) -> None:
    config = evaluating.config.trainer
    self._trainer = evaluating
    self._log = log
    self._metric = config.best_checkpoint_eval_metric
    self._choose = max if config.best_checkpoint_metric_comp == "higher" else min
    self._interval = config.checkpoint_interval
    self._num_steps = tf.constant(config.validation_steps, tf.int32)
    self._model_dir = model_dir
    self._writer = orbit.utils.SummaryManager(
      os.path.join(model_dir, config.validation_summary_subdir),
      tf.summary.scalar,
      global_step=evaluating.global_step,
    )

  def evaluate(self, path: str, written: Written) -> str:
    """Evaluates one checkpoint; returns the line to print.

    Args:
      path: Its path.
      written: Which one it is.
    """
    start = time.monotonic()
    if problem := self._restore(path):
      return f"step {written.step:,}: skipped, {problem}"
    logs = self._trainer.evaluate(self._num_steps)
    self._writer.write_summaries(tf.nest.map_structure(orbit.utils.get_value, logs))
    self._writer.flush()
    metrics = {name: float(value) for name, value in sorted(logs.items())}
    seconds = time.monotonic() - start
    self._log.add(written, metrics, seconds)
    shown = ", ".join(
      f"{name}={value:.5g}"
      for name, value in metrics.items()
      if not name.startswith(("raw_", "best_"))
    )
    return f"step {written.step:,}: {shown}; {self._best()} ({seconds:.1f} s)"

  def _restore(self, path: str) -> str | None:
    """Restores a checkpoint; returns what is wrong with it where that fails."""
    problem = checkpoint_integrity.find_corruption(path)
    if problem is None:
      try:
        with self._trainer.strategy.scope():
          self._trainer.checkpoint.restore(path)
      except (tf.errors.OpError, ValueError) as error:
        problem = str(error).split("\n", maxsplit=1)[0]
    if problem and not tf.io.gfile.exists(f"{path}.index"):
      return "the training has deleted its checkpoint (trainer.max_to_keep)"
    return problem and f"its checkpoint cannot be read: {problem}"

  def _best(self) -> str:
    values = {w: m[self._metric] for w, m in self._log.metrics.items()}
    best = self._choose(values, key=lambda written: values[written])
    return f"best {self._metric}={values[best]:.5g} at step {best.step:,}"

  def summary(self) -> str:
    """Returns what to print at the end."""
    if not self._log.metrics:
      return f"no checkpoint of {self._model_dir} could be evaluated"
    lines = [
      f"evaluated {len(self._log.metrics)} checkpoints: {self._best()}, kept in "
      f"{os.path.join(self._model_dir, BEST_SUBDIR)}"
    ]
    if skipped := self._log.skipped(self._interval):
      lines.append(
        f"not evaluated, as they were gone when their turn came: steps "
        f"{', '.join(f'{step:,}' for step in skipped)}"
      )
    lines.append(f"all metrics: {os.path.join(self._model_dir, LOG_FILE)}")
    return "\n".join(lines)
