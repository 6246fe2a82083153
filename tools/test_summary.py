"""Prints how long each step of `make test` and its slowest tests took, and counts.

usage: python tools/test_summary.py build/test-results
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

OUTCOMES = ("passed", "failed", "errors", "skipped")
LINES_OF_PROBLEM = 15
SLOWEST = 20


def print_steps(lines: list[str]) -> int:
  """Prints a table of `name, seconds, status` lines; returns the sum of the seconds."""
  total = 0
  print("\n== Seconds of each part")
  for line in lines:
    name, seconds, status = line.split("\t")
    total += int(seconds)
    print(f"  {name:<12} {seconds:>6}  {'failed' if int(status) else 'ok'}")
  print(f"  {'all':<12} {total:>6}")
  return total


def count(reports: list[Path]) -> dict[str, int]:
  """Returns how many tests of the JUnit reports had each of `OUTCOMES`."""
  counts = dict.fromkeys(OUTCOMES, 0)
  for report in reports:
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
      failed, errors, skipped, tests = (
        int(suite.get(key, 0)) for key in ("failures", "errors", "skipped", "tests")
      )
      counts["failed"] += failed
      counts["errors"] += errors
      counts["skipped"] += skipped
      counts["passed"] += tests - failed - errors - skipped
  return counts


def print_problems(reports: list[Path]) -> None:
  """Prints what failed, and how each message ends; tests that share one in one row."""
  tests: dict[str, list[str]] = {}
  for report in reports:
    for case in ElementTree.parse(report).getroot().iter("testcase"):
      for problem in [*case.iter("failure"), *case.iter("error")]:
        lines = (problem.text or problem.get("message", "")).strip().splitlines()
        name = f"{case.get('classname')}.{case.get('name')}"
        tests.setdefault("\n".join(lines[-LINES_OF_PROBLEM:]), []).append(name)
  for message, names in tests.items():
    print(f"\n== {names[0]}", f"and {len(names) - 1} more" if names[1:] else "")
    print(message)


def print_slowest(reports: list[Path]) -> None:
  """Prints the tests that took longest, setup included, by wall clock and by CPU."""
  rows = []
  for report in reports:
    for case in ElementTree.parse(report).getroot().iter("testcase"):
      cpu = sum(
        float(item.get("value", 0))
        for item in case.iter("property")
        if item.get("name", "").startswith("cpu_seconds")
      )
      name = f"{case.get('classname', '').removeprefix('tests.')}.{case.get('name')}"
      rows.append((float(case.get("time", 0)), cpu, name))
  print(f"\n== Seconds of the {SLOWEST} slowest tests: wall clock, CPU")
  for seconds, cpu, name in sorted(rows, reverse=True)[:SLOWEST]:
    print(f"  {seconds:>6.1f} {cpu:>6.1f}  {name}")


def main(results: Path) -> None:
  """Prints what failed, the table, then one line as pytest ends with."""
  reports = sorted(results.glob("*.xml"))
  print_problems(reports)
  print_slowest(reports)
  total = print_steps((results / "steps.tsv").read_text().splitlines())
  counts = count(reports)
  shown = [f"{counts[name]} {name}" for name in OUTCOMES if counts[name]]
  print(f"\n==== {', '.join(shown) or 'no tests ran'} in {total}.00s ====")


if __name__ == "__main__":
  main(Path(sys.argv[1]))
