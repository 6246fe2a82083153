"""Fails where resolved requirements do not fit the bounds of a stack.

usage: python tools/check_bounds.py STACK REQUIREMENTS.txt
"""

import sys
from pathlib import Path

from packaging.requirements import Requirement

from mnv2_hpu import compat


def main(stack: str, resolved: str) -> None:
  """Prints the resolved release of Model Garden; exits with what does not fit."""
  lines = Path(resolved).read_text().splitlines()
  pins = dict(line.split("==") for line in lines if "==" in line)
  bounds = [*compat.STACKS[stack].bounds, f"{compat.MODEL_GARDEN}=={stack}.*"]
  for bound in map(Requirement, bounds):
    if pins[bound.name] not in bound.specifier:
      sys.exit(f"error: {bound.name} {pins[bound.name]} does not fit {bound}")
  print(f"resolves: {compat.MODEL_GARDEN} {pins[compat.MODEL_GARDEN]}")


if __name__ == "__main__":
  main(*sys.argv[1:])
