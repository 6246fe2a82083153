"""Runs the benchmarks that compare with peers, and writes docs/benchmarks_in_turns.md.

  python benchmarks/run.py                       # all of PARTS, some 45 minutes
  python benchmarks/run.py --parts=start_up      # one
  python benchmarks/run.py --parts=              # the page and its plot alone

Each part keeps its numbers in docs/benchmarks/NAME.json; the page holds what is kept.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import turns
from absl import app, flags

# Those not named as their part.
SCRIPTS = {
  "smaller_records": "input_pipeline",
  "peak_memory": "whole_run",
  "buckets": "processes",
}
PARTS = {
  "network_speed": ("--rounds=4", "--steps=3"),
  "input_pipeline": ("--rounds=4", "--seconds=2"),
  "smaller_records": ("--rounds=3", "--seconds=2", "--max_sides=0,384,320,256"),
  "data_service": ("--images=4096", "--rounds=3", "--seconds=4"),
  "evaluation_speed": ("--rounds=3",),
  "whole_run": ("--rounds=2",),
  "peak_memory": ("--rounds=1", "--memory"),
  "exported_models": ("--rounds=5",),
  "start_up": ("--rounds=3",),
  "checkpoint_pause": ("--rounds=9",),
  "processes": ("--rounds=2",),
  "buckets": ("--rounds=3", "--buckets_mb=64,4,2"),
}
PAGE = turns.RESULTS.parent / "benchmarks_in_turns.md"
PLOT = turns.RESULTS.parent / "benchmarks_in_turns.png"
HEAD = """# Benchmarks that take turns

Written by `make benchmark`; `make benchmark PARTS=start_up` measures one part again. In
each round all cases of a table are measured once; a cell is the median of the rounds
(least to most), "ahead" how many times better mnv2_hpu is within a round: above 1 it is
ahead. What else was measured: [benchmarks.md](benchmarks.md).

![How many times better mnv2_hpu is](benchmarks_in_turns.png)
"""

_PARTS = flags.DEFINE_list("parts", [*PARTS], "Benchmarks to run.")


def _section(result):
  lines = [
    f"\n## {result['title']}\n",
    f"`{result['command']}`, {result['date']}; {result['machine']}; "
    f"{result['versions']}.\n",
    f"| | | {result['unit']} | ahead |",
    "|---|---|---|---|",
    *(f"| {' | '.join(row)} |" for row in turns.rows(result)),
  ]
  return "\n".join(lines) + "\n"


def page(results):
  """Returns the text of the page."""
  return HEAD + "".join(map(_section, results))


def kept():
  """Returns what is kept of each part that was run, in the order of `PARTS`."""
  paths = [turns.RESULTS / f"{name}.json" for name in PARTS]
  return [json.loads(path.read_text()) for path in paths if path.exists()]


def plot(results, path):
  """Draws the ratios of all parts, with their spread."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  cases = [
    (f"{kind}: {name}", of_case)
    for result in results
    for kind, name, _, of_case in turns.compared(result)
    if of_case
  ]
  figure, axes = pyplot.subplots(figsize=(8, 1 + 0.26 * len(cases)))
  for row, (_, of_case) in enumerate(cases):
    middle = statistics.median(of_case)
    color = "tab:green" if middle >= 1 else "tab:red"
    axes.plot([min(of_case), max(of_case)], [row, row], color=color, alpha=0.5)
    axes.plot(middle, row, "o", color=color)
  axes.axvline(1, color="gray", linewidth=1)
  axes.set_yticks(range(len(cases)), [label for label, _ in cases])
  axes.invert_yaxis()
  axes.set_xscale("log")
  axes.set_xlabel("times better than this peer: median, least and most")
  figure.savefig(path, dpi=110, bbox_inches="tight")


def main(argv):
  """Runs the parts, then writes page and plot."""
  del argv
  unknown = {*_PARTS.value} - {*PARTS}
  if unknown:
    sys.exit(f"error: --parts: {sorted(unknown)} is none of {', '.join(PARTS)}.")
  for name in _PARTS.value:
    script = Path(__file__).with_name(f"{SCRIPTS.get(name, name)}.py")
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-W", "ignore", script, *PARTS[name]], check=True)
  results = kept()
  PAGE.write_text(page(results), encoding="utf-8")
  plot(results, PLOT)
  print(f"\nwrote {PAGE} and {PLOT}")


if __name__ == "__main__":
  app.run(main)
