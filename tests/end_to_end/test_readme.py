"""Every command that a document tells a reader to type is tried; see helpers_readme."""

import pathlib
import re
import subprocess
from importlib import metadata

import helpers_readme
import helpers_segmentation_records
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.checkout]

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
  path for place in ("*.md", "docs/*.md", "deploy/*/*.md") for path in ROOT.glob(place)
)
COMMANDS = [c for d in DOCUMENTS for c in helpers_readme.commands(d.read_text())]
COMMANDS += [
  c for m in ROOT.glob("deploy/*/*.yaml") for c in helpers_readme.manifest(m)
]


def test_console_scripts_of_the_documents_are_installed():
  programs = {helpers_readme.program(c).split()[0] for c in COMMANDS}
  scripts = metadata.distribution("mnv2-hpu").entry_points.names

  assert {p for p in programs if p.startswith("mnv2-")} <= set(scripts)


def commands_of(*kinds):
  chosen = [c for c in COMMANDS if helpers_readme.kind(c) in kinds]
  return pytest.mark.parametrize("command", dict.fromkeys(chosen))


def test_readme_has_the_two_commands_of_a_new_user():
  readme = (ROOT / "README.md").read_text()

  assert {"make quickstart", "make test"} <= set(helpers_readme.commands(readme))


def test_every_command_is_of_a_kind_that_is_checked():
  assert [c for c in COMMANDS if helpers_readme.kind(c) is None] == []


@commands_of(helpers_readme.MAKE)
def test_make_target_exists(command):
  done = subprocess.run(
    [*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@commands_of(helpers_readme.TRAIN)
def test_training_command_resolves(command, programs, digits_records, tmp_path):
  module, arguments = helpers_readme.module_and_arguments(command)
  assert module in helpers_readme.TRAIN_MODULES
  data = {"DATA_DIR": f"'{digits_records}'"}
  if experiment := re.search(r"mobilenet_v2_(deeplab|ssdlite)\w*", command):
    scenes = helpers_segmentation_records.write_scenes(tmp_path)
    data = {
      "DATA_DIR": f"'{scenes}'",
      f"{experiment[0]}.num_classes": helpers_segmentation_records.NUM_CLASSES,
      f"{experiment[0]}.num_train_examples": 12,
    }

  done = programs.run(
    "mnv2_hpu.cli.train",
    *arguments,
    *(f"--gin_params={name} = {value}" for name, value in data.items()),
    "--dry_run",
  )

  assert done.returncode == 0, done.output[-3000:]


@commands_of(helpers_readme.ARGUMENTS)
def test_arguments_are_valid(command, programs):
  module, arguments = helpers_readme.module_and_arguments(command)

  done = programs.run(module, "--only_check_args", *arguments)  # before any --

  assert done.returncode == 0, done.output[-3000:]


LAUNCHERS = {c.split(" -- ")[0] for c in COMMANDS if c.startswith("mnv2-launch ")}


@pytest.mark.parametrize("launcher", sorted(LAUNCHERS))
def test_flags_of_the_launcher_are_valid(launcher, programs):
  module, arguments = helpers_readme.module_and_arguments(launcher)

  done = programs.run(module, *arguments, "--only_check_args")

  assert done.returncode == 0, done.output[-3000:]


@commands_of(helpers_readme.RUN)
def test_command_runs(command, programs):
  module, arguments = helpers_readme.module_and_arguments(command)

  done = programs.run(module, *arguments)

  assert done.returncode == 0, done.output[-3000:]


@pytest.mark.parametrize(
  "document", DOCUMENTS, ids=lambda document: document.relative_to(ROOT).as_posix()
)
def test_files_that_a_document_links_to_exist(document):
  targets = helpers_readme.links(document.read_text())

  assert [t for t in targets if not (document.parent / t).exists()] == []


def test_map_names_every_room_and_only_what_exists():
  text = (ROOT / "docs/architecture.md").read_text()
  package = ROOT / "mnv2_hpu"
  rooms = {path.parent.name for path in package.glob("*/__init__.py")}

  assert {room for room in rooms if f"{room}/" not in text} == set()
  named = re.findall(r"`((?:tests|tools|gin)/[\w/.]+|[a-z_]+/[a-z_]+\.py)`", text)
  assert [n for n in named if not ((ROOT / n).exists() or (package / n).exists())] == []
