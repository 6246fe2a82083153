"""What all commands share: flags and one call, paths, help without TensorFlow."""

import ast
import contextlib
import importlib
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from absl import flags

from mnv2_hpu import deprecations
from mnv2_hpu.cli import path_flags

COMMANDS = sorted(
  script.module
  for script in metadata.distribution("mnv2-hpu").entry_points
  if script.group == "console_scripts"
)
OF_A_PATH = re.compile(r"(^|_)(dir|path|file|files|checkpoint|dirs)$")

_HELP = """
import importlib, os, sys
for name in sys.argv[1:]:
  if os.fork() == 0:
    sys.argv = [name, "--help"]
    try:
      importlib.import_module(name).entry_point()
    finally:
      sys.stdout.flush()
      os._exit("tensorflow" in sys.modules)
  assert os.wait()[1] == 0, name
"""


@contextlib.contextmanager
def flags_of(name):
  """Defines the flags of a command as long as the block lasts."""
  module = importlib.import_module(name)
  before = set(flags.FLAGS)
  module.define_flags()
  yield module
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)


@pytest.fixture(params=COMMANDS, ids=lambda name: name.rpartition(".")[2])
def command(request):
  """A command's module with its flags defined; they are gone afterwards."""
  with flags_of(request.param) as module:
    yield module


def path_flag_names(module):
  """Returns the flags of the command that name files or folders."""
  # Besides these, absl's own `log_dir` and `flagfile`, and Habana's list by its name.
  return [
    name
    for name in flags.FLAGS
    if isinstance(flags.FLAGS[name].parser, path_flags.PathParser)
  ]


def test_command_is_flags_and_one_call(command):
  lines = Path(command.__file__).read_text()
  functions = [
    node.name
    for node in ast.walk(ast.parse(lines))
    if isinstance(node, ast.FunctionDef)
  ]

  assert functions == ["define_flags", "main", "entry_point"]
  assert len(lines.splitlines()) <= 80


def test_every_flag_of_a_path_is_a_path_flag(command):
  own = {
    flag.name
    for module, defined in flags.FLAGS.flags_by_module_dict().items()
    if module.startswith(("mnv2_hpu", "official.common"))
    for flag in defined
  }
  named = {name for name in own if OF_A_PATH.search(name)}

  # Legacy: a name of a list, and a folder that is refused whatever it is.
  assert named - {"bf16_config_path", "eval_dir"} <= set(path_flag_names(command))


def test_a_url_that_cannot_be_opened_is_refused(command):
  for name in path_flag_names(command):
    with pytest.raises(flags.IllegalFlagValueError, match="s3://bucket/data"):
      flags.FLAGS[name].parse("s3://bucket/data")


def test_a_home_folder_is_expanded(command, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  for name in path_flag_names(command):
    flag = flags.FLAGS[name]
    flag.parse("~/data")
    assert flag.value in (f"{tmp_path}/data", [f"{tmp_path}/data"])


def test_a_folder_to_write_cannot_be_a_file(command, tmp_path):
  file = tmp_path / "file"
  file.touch()
  for name in path_flag_names(command):
    if flags.FLAGS[name].parser.written:
      for path in (file, file / "below"):
        with pytest.raises(flags.IllegalFlagValueError, match="is a file"):
          flags.FLAGS[name].parse(str(path))


def test_old_names_lead_to_flags_of_a_command():
  names = set()
  for name in COMMANDS:
    with flags_of(name):
      names |= set(flags.FLAGS)

  assert set(deprecations.FLAGS.values()) <= names
  assert names.isdisjoint(deprecations.FLAGS)


def test_help_needs_no_tensorflow():
  done = subprocess.run(
    [sys.executable, "-c", _HELP, *COMMANDS], capture_output=True, text=True
  )

  assert done.returncode == 0, done.stderr
  for name in COMMANDS:
    program = name.rpartition(".")[2].replace("_", "-")
    if program != "quickstart":
      assert f"mnv2-{program} " in done.stdout
