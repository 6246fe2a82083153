"""Says whether this machine and its packages fit, and what to do where they do not.

Prints one line for each part: ok, note, warn or fail. Ends with code 1 if one failed.

Example, with a look for a Gaudi card:

  mnv2-doctor --probe_hpu
"""

import os
from collections.abc import Iterable, Sequence

from absl import flags

from mnv2_hpu.cli import doctor_checks, doctor_facts, process
from mnv2_hpu.cli import main as cli_main
from mnv2_hpu.cli.doctor_checks import Finding
from mnv2_hpu.distribute import hpu_environment

_PROBE_HPU = flags.DEFINE_bool(
  "probe_hpu",
  False,
  "Load Habana's bridge too, in a process of its own, and ask for a card (20 seconds).",
)


def report(findings: Iterable[Finding]) -> str:
  """Returns one line for each finding, with what to do below it.

  >>> print(report([Finding("warn", "disk", "2 GB free", "Free some.")]))
  warn  disk                 2 GB free
                             -> Free some.
  """
  lines = []
  for finding in findings:
    lines.append(f"{finding.status:<5} {finding.topic:<20} {finding.text}")
    if finding.advice:
      lines.append(f"{'':<27}-> {finding.advice}")
  return "\n".join(lines)


def unconfirmed() -> str:
  """Returns the list of what no card has confirmed."""
  lines = (f"  - {what}" for what in hpu_environment.UNCONFIRMED)
  return "\n".join(["No Gaudi card has confirmed yet:", *lines])


def main(argv: Sequence[str]) -> int:
  """Prints the report; returns 1 if a check failed."""
  del argv
  as_user_set_it = dict(os.environ)
  process.set_up()
  facts = doctor_facts.collect(as_user_set_it)
  findings = [check(facts) for check in doctor_checks.CHECKS]
  if _PROBE_HPU.value:
    findings.append(doctor_checks.hpu(*doctor_facts.probe_hpu()))
  statuses = [finding.status for finding in findings]
  print(report(findings))
  print(unconfirmed())
  print(
    f"{statuses.count('ok')} ok, {statuses.count('warn')} warnings, "
    f"{statuses.count('fail')} failures"
  )
  return int("fail" in statuses)


def entry_point() -> None:
  """The console script `mnv2-doctor`."""
  cli_main.run(main)


if __name__ == "__main__":
  entry_point()
