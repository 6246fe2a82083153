"""Rules of the source that no linter checks."""

import importlib.util
import pathlib
import re

import pytest

pytestmark = pytest.mark.checkout

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mnv2_hpu"
MAX_COMMAND_LINES = 80
MAX_MODULES = 15  # in a room, beside its __init__
COMMANDS = {"__init__", "command", "path_flags"}  # what commands share


@pytest.fixture(scope="module")
def check_words():
  spec = importlib.util.spec_from_file_location(
    "check_words", ROOT / "tools/check_words.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize(
  ("text", "write"),
  [
    ("the averaged\nweights", "EMA weights"),
    ("a training on one card", "device, accelerator"),
    ("def _garden(): pass", "Model Garden, upstream, model_garden"),
    ("DAMAGED = 1", "corruption, corrupt; find_corruption"),
  ],
)
def test_words_of_this_project_alone_are_refused(check_words, text, write):
  assert [found.write for found in check_words.check_words("a.py", text)] == [write]


def test_the_field_s_words_are_not(check_words):
  text = "EMA weights of Model\nGarden, trained from scratch on one device; cardinality"
  assert list(check_words.check_words("a.md", text)) == []


def test_an_entry_that_does_not_stand_alone_is_refused(check_words):
  source = 'def f(a):\n  """Returns a.\n\n  Args:\n    a: of its output.\n  """\n'
  assert [found.line for found in check_words.check_docstrings(source)] == [5]


def test_one_module_alone_replaces_files():
  replacing = re.compile(r"os\.(replace|rename)\(")
  found = {p.name for p in PACKAGE.rglob("*.py") if replacing.search(p.read_text())}
  assert found == {"files.py"}


def test_one_module_alone_asks_which_stack_it_is():
  # The bridge fits one TensorFlow, whatever the stack; the doctor reads the table.
  asking = re.compile(r"version_info|stack\(\)|STACKS|__version__ *[=!<>]|tf_keras")
  found = {
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    if asking.search(path.read_text())
  }
  found -= {"__init__.py", "distribute/habana.py"}
  assert found == {"compat.py", "doctor/checks.py", "doctor/environment.py"}


def test_commands_are_flags_and_one_call():
  for path in (PACKAGE / "cli").glob("*.py"):
    if path.stem not in COMMANDS:
      lines = path.read_text().splitlines()
      names = {line[4:].split("(")[0] for line in lines if line.startswith("def ")}
      assert len(lines) <= MAX_COMMAND_LINES, path
      assert names <= {"define_flags", "main", "entry_point"}, path


def test_no_two_test_files_have_one_name():
  # pytest imports them as top-level modules: the second in a process is an error.
  names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
  assert sorted(names) == sorted(set(names))


def test_rooms_are_not_crowded():
  rooms = [path.parent for path in PACKAGE.glob("*/**/__init__.py")]
  for room in rooms:
    assert len(list(room.glob("*.py"))) - 1 <= MAX_MODULES, room
