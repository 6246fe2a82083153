"""`--help` of every command, as its entry point prints it."""

import pathlib
from importlib import metadata

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "entrypoints").glob("*.py"))

pytestmark = [pytest.mark.slow, pytest.mark.checkout]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_explains_and_lists_flags(script, programs):
  done = programs.run(f"mnv2_hpu.cli.{script.stem}", "--help")
  output = done.output

  assert done.returncode == 0
  first_line = output.strip().splitlines()[0]
  assert first_line.endswith(".")
  assert "flags:" in output
  assert "Traceback" not in output


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_misspelt_flag_is_named(script, programs):
  done = programs.run(f"mnv2_hpu.cli.{script.stem}", "--no_such_flag=1")

  assert done.returncode == 1
  assert "Unknown command line flag 'no_such_flag'" in done.output
  assert "Traceback" not in done.output


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_entry_point_is_thin(script):
  lines = script.read_text().splitlines()

  assert len(lines) <= 30
  assert f"from mnv2_hpu.cli.{script.stem} import entry_point" in lines


def test_every_entry_point_has_a_console_script():
  scripts = metadata.distribution("mnv2-hpu").entry_points.names

  assert {f"mnv2-{s.stem.replace('_', '-')}" for s in SCRIPTS} <= set(scripts)
