"""A sidecar: evaluates each checkpoint of a run, logs it, keeps the best."""

import datetime
import json
import os
import time

import orbit
import tensorflow as tf
from absl import logging

from mnv2_hpu.core import checkpoint_integrity, trainer
from mnv2_hpu.evaluation.run_watcher import Written

LOG_FILE = "evaluations.jsonl"
BEST_SUBDIR = "best"


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
