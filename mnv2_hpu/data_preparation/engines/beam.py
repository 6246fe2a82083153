"""Prepares the parts of a data set (`--shard`) as the elements of a Beam pipeline.

https://beam.apache.org; only what needs Apache Beam imports it.
"""

import contextlib
import dataclasses
import io
import logging
import re
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from mnv2_hpu.data_preparation import prepare as preparation
from mnv2_hpu.data_preparation.summary import PartResult, PreparationResult
from mnv2_hpu.errors import UserError, did_you_mean, shorten

# Beam's own `DirectRunner` would download another one, Prism, and start that.
RUNNERS = {
  "direct": "FnApiRunner",
  "flink": "FlinkRunner",
  "spark": "SparkRunner",
  "dataflow": "DataflowRunner",
}
DEFAULT_NUM_PARTS = 16
_FORWARDING = ("flink", "spark")  # whose job servers know options that Beam does not

# A part beyond the shards: its preparation checks everything and records the plan.
_EMPTY_PART = "99999/99999"
_COUNTER = ("mnv2_hpu", "images written")
_MESSAGE = re.compile(r"\bUserError: (.+?)(?: \[while running|\n\n|\Z)", re.DOTALL)
# They log, with traceback, the error of a worker that is raised all the same.
_REPEATING = ("apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker")


class Engine(NamedTuple):
  """Who prepares the parts.

  Attributes:
    runner: A name of `RUNNERS`; None where this host prepares all, without Beam.
    arguments: Options of Beam and of the runner, such as `--direct_num_workers=2`.
    num_parts: Parts that the workers are given, each of which lists the input; None or
      0 is 16.
  """

  runner: str | None = None
  arguments: Sequence[str] = ()
  num_parts: int | None = None


def prepare(
  options: preparation.PreparationOptions,
  engine: Engine,
  report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparationResult | PartResult:
  """Prepares a data set on an engine, byte for byte as `prepare.prepare` does.

  Mistakes in options and input are found here, before a worker starts; here, too,
  `dataset.json` is written at the end.

  Args:
    options: What to prepare, and how; all workers see the two folders. A worker uses
      one process for a part unless `num_processes` says more.
    engine: Where to prepare it.
    report_progress: As for `prepare.prepare`; on an engine, called at the end.

  Raises:
    UserError: If Beam, or what the runner needs, is not installed, if an option is not
      one, and as `prepare.prepare` says, whichever worker finds it.
  """
  start = time.monotonic()
  _check(options, engine)
  if engine.runner is None:
    return preparation.prepare(options, report_progress)
  pipeline = _pipeline(engine.runner, engine.arguments)
  begun = preparation.prepare(dataclasses.replace(options, shard=_EMPTY_PART))
  if isinstance(begun, PreparationResult):
    return begun
  num_written = _run(pipeline, engine, options)
  result = preparation.prepare(options, report_progress)
  return dataclasses.replace(
    result,
    num_written=result.num_written + num_written,
    num_kept=result.num_kept - num_written,
    seconds=time.monotonic() - start,
  )


def _check(options: preparation.PreparationOptions, engine: Engine) -> None:
  runner, arguments, num_parts = engine
  if runner is None and (arguments or num_parts):
    raise UserError(
      f"{[*arguments] or f'--num_parts={num_parts}'}: understood by Apache Beam alone, "
      "which --runner chooses."
    )
  if runner is not None and runner not in RUNNERS:
    raise UserError(f"--runner={runner} is none. {did_you_mean(runner, RUNNERS)}")
  if runner and options.shard:
    raise UserError(
      f"--shard={options.shard} is a part, and --runner={runner} prepares all. Leave "
      "one of them out."
    )
  if num_parts and num_parts < 0:
    raise UserError(f"--num_parts={num_parts}: allowed are 1 and more, or 0 for 16.")


def _import_beam() -> ModuleType:
  try:
    import apache_beam
  except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "apache_beam":
      raise
    raise UserError(
      "--runner needs Apache Beam, which is not installed in this interpreter. `make "
      "setup-beam` makes .venv-beam, an environment with it; pip install "
      "'mnv2-hpu[beam]' puts it into a fresh one."
    ) from error
  return apache_beam


def _pipeline(runner: str, arguments: Sequence[str]) -> Any:
  beam = _import_beam()
  from apache_beam.options.pipeline_options import PipelineOptions

  known = {*PipelineOptions([]).get_all_options()}
  chosen, usage = PipelineOptions([*arguments], runner=RUNNERS[runner]), io.StringIO()
  try:
    with contextlib.redirect_stderr(usage):
      given = {*chosen.get_all_options(retain_unknown_options=True)}
  except SystemExit:  # argparse has written a hundred lines; the last says why
    raise UserError(usage.getvalue().rpartition("error: ")[2].strip()) from None
  unknown = [text for text in arguments[:1] if not text.startswith("--")]
  if runner not in _FORWARDING:
    unknown += sorted(given - known)
  if unknown:
    raise UserError(
      f"{shorten(unknown)}: Beam has no such option. {did_you_mean(unknown[0], known)}"
    )
  try:
    return beam.Pipeline(options=chosen)
  except (ImportError, ValueError) as error:
    raise UserError(f"--runner={runner} cannot be used: {error}") from error


def _run(pipeline: Any, engine: Engine, options: preparation.PreparationOptions) -> int:
  """Returns the number of images that the workers have written."""
  beam = _import_beam()
  options = dataclasses.replace(options, num_processes=options.num_processes or 1)
  num_parts = engine.num_parts or DEFAULT_NUM_PARTS
  parts = [f"{number}/{num_parts}" for number in range(1, num_parts + 1)]
  _ = (
    pipeline
    | "parts" >> beam.Create(parts, reshuffle=False)
    | beam.Reshuffle()
    | "prepare" >> beam.Map(_prepare_part, options)
  )
  for name in _REPEATING:
    logging.getLogger(name).setLevel(logging.CRITICAL)
  try:
    result = pipeline.run()
    if (state := result.wait_until_finish()) != "DONE":  # CANCELLED, by a person
      raise RuntimeError(f"the pipeline has ended as {state}")
  except Exception as error:  # whatever an engine wraps that of a worker in
    text = f"{type(error).__name__}: {error}"
    found = _MESSAGE.search(text)
    if found is None and engine.runner == "direct":
      raise  # a defect
    explanation = found[1] if found else f"--runner={engine.runner} failed: {text}"
    raise UserError(
      f"{explanation}\nWhat is finished is kept: the same command continues."
    ) from error
  wanted = beam.metrics.MetricsFilter().with_namespace(_COUNTER[0])
  return sum(counter.result for counter in result.metrics().query(wanted)["counters"])


def _prepare_part(part: str, options: preparation.PreparationOptions) -> None:
  from apache_beam.metrics import Metrics

  result = preparation.prepare(dataclasses.replace(options, shard=part))
  Metrics.counter(*_COUNTER).inc(result.num_written)
