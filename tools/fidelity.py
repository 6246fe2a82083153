"""Writes docs/fidelity.md: each part of slim's recipe, our number, the original's.

  make fidelity

Runs the tests marked `fidelity`; each records what it compared with the fixture
`fidelity` (tests/conftest.py), so that the page holds the numbers of this run.
"""

import json
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "fidelity.md"
ON_PURPOSE = ROOT / "docs" / "fidelity_on_purpose.md"

HEADER = """# Fidelity

What this project computes, against what slim's MobileNetV2 computed. The numbers of the
original are golden files (`tests/golden`), made by running it on TensorFlow 2.15 on a
CPU in float32 without oneDNN; or published code, where a row says so. Every row is a
test; this page is written by `tools/fidelity.py` from a run of those tests
({environment}).

| part | original | ours | difference | allowed | test |
|---|---|---|---|---|---|
"""


def rows(report: Path) -> list[dict[str, str]]:
  """Returns what the tests recorded, in order, with the test that did."""
  found = []
  for case in xml.etree.ElementTree.parse(report).iter("testcase"):
    for record in case.iter("property"):
      if record.get("name") == "fidelity":
        test = f"{case.get('classname', '').split('.')[-1]}.{case.get('name')}"
        found.append({**json.loads(record.get("value", "{}")), "test": test})
  return found


def main() -> int:
  """Runs the tests and writes the page; returns pytest's exit code."""
  with tempfile.TemporaryDirectory() as folder:
    report = Path(folder) / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "fidelity"]
    done = subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, check=False)
    if done.returncode:
      return done.returncode
    found = rows(report)
  lines = [
    f"| {r['part']} | {r['original']} | {r['ours']} | {r['difference']} | "
    f"{r['allowed']} | `{r['test']}` |"
    for r in found
  ]
  environment = f"{platform.machine()}, Python {platform.python_version()}"
  text = HEADER.format(environment=environment) + "\n".join(lines) + "\n\n"
  partial = PAGE.with_suffix(".partial")
  partial.write_text(text + ON_PURPOSE.read_text())
  partial.replace(PAGE)
  print(f"wrote {PAGE.relative_to(ROOT)}: {len(found)} rows")
  return 0


if __name__ == "__main__":
  sys.exit(main())
