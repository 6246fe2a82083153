"""What benchmarks share: cases that take turns, a table, the JSON that is kept of it.

Cases of one kind are compared with its first, which is ours: round by round, since a
machine that slows down slows all cases of a round.
"""

import datetime
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
PACKAGES = ("tensorflow", "tensorflow-cpu", "tf-models-official", "numpy")

Case = tuple[str, str]  # kind, name


def take_turns(
  measures: Mapping[Case, Callable[[], float]], rounds: int, *, warm_up: bool = True
) -> dict[Case, list[float]]:
  """Returns the values of each case, of so many rounds (A B C A B C …).

  Args:
    measures: By kind and name: measures once.
    rounds: Number of values of each case.
    warm_up: Whether a round before the first is thrown away.
  """
  values: dict[Case, list[float]] = {case: [] for case in measures}
  for number in range(rounds + warm_up):
    for case, measure in measures.items():
      value = measure()
      if number >= warm_up:
        values[case].append(value)
  return values


def ratios(ours: list[float], theirs: list[float], more_is_better: bool) -> list[float]:
  """Returns by round how many times better ours is.

  >>> ratios([2.0, 3.0], [1.0, 1.0], more_is_better=True)
  [2.0, 3.0]
  >>> ratios([2.0, 4.0], [1.0, 1.0], more_is_better=False)
  [0.5, 0.25]
  """
  pairs = zip(ours, theirs, strict=True)
  return [a / b if more_is_better else b / a for a, b in pairs]


def _machine() -> str:
  cores = len(os.sched_getaffinity(0))
  lines = Path("/proc/cpuinfo").read_text().splitlines()
  names = [
    line.split(":")[1].strip() for line in lines if line.startswith("model name")
  ]
  wide = "AVX-512" if any("avx512f" in line for line in lines) else "no AVX-512"
  return f"{cores} cores, {names[0] if names else platform.machine()}, {wide}"


def _versions() -> str:
  versions = [f"Python {platform.python_version()}"]
  for name in PACKAGES:
    try:
      versions.append(f"{name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
      continue
  return ", ".join(versions)


def publish(
  name: str,
  title: str,
  unit: str,
  values: Mapping[Case, list[float]],
  *,
  more_is_better: bool,
  peer_versions: str = "",
) -> None:
  """Prints a table, and keeps it with date, machine, versions and command as JSON.

  Args:
    name: Of the file, `docs/benchmarks/NAME.json`.
    title: What is measured, with its settings.
    unit: Of a value.
    values: As `take_turns` returns them.
    more_is_better: Whether the larger value is the better one.
    peer_versions: Versions of what another environment holds.
  """
  result = {
    "title": title,
    "unit": unit,
    "more_is_better": more_is_better,
    "date": datetime.date.today().isoformat(),
    "machine": _machine(),
    "versions": ", ".join(filter(None, [_versions(), peer_versions])),
    "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
    "values": [
      {"kind": kind, "name": case, "values": [float(f"{v:.5g}") for v in measured]}
      for (kind, case), measured in values.items()
    ],
  }
  print(f"\n{title}\n{result['machine']}; {result['versions']}")
  for row in rows(result):
    print("  " + "  ".join(f"{cell:<34}" for cell in row))
  RESULTS.mkdir(exist_ok=True)
  text = json.dumps(result, indent=1)
  (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def compared(result: Mapping) -> list[tuple[str, str, list[float], list[float]]]:
  """Returns kind, name, values and ratios of each case; ours has no ratios."""
  first: dict[str, list[float]] = {}
  cases = []
  for case in result["values"]:
    kind, measured = case["kind"], case["values"]
    ours = first.setdefault(kind, measured)
    of_case = (
      [] if ours is measured else ratios(ours, measured, result["more_is_better"])
    )
    cases.append((kind, case["name"], measured, of_case))
  return cases


def rows(result: Mapping) -> list[tuple[str, str, str, str]]:
  """Returns kind, name, median and spread, and how many times better ours is."""
  return [
    (kind, name, _spread(measured, "{:,.4g}"), _spread(of_case, "{:.2f}"))
    for kind, name, measured, of_case in compared(result)
  ]


def _spread(values: list[float], form: str) -> str:
  """Median, least and most.

  >>> _spread([1.0, 3.0, 2.0], "{:.1f}")
  '2.0 (1.0 to 3.0)'
  """
  if not values:
    return ""
  median, least, most = (form.format(f(values)) for f in (statistics.median, min, max))
  return median if len(values) == 1 else f"{median} ({least} to {most})"
