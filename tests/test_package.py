"""What users of the package meet first: import, version, registration, contents."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import mnv2_hpu

HEAVY = ("tensorflow", "keras", "tf_keras", "official", "gin", "numpy", "absl")


def run_python(code: str, *flags: str) -> str:
  done = subprocess.run(
    [sys.executable, *flags, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_import_loads_nothing_heavy():
  loaded = run_python("import sys, mnv2_hpu; print(*sys.modules)").split()

  assert not set(HEAVY) & set(loaded)


def test_facts_without_tensorflow():
  modules = ["errors", "tf_environment", "cluster"]
  imports = "; ".join(f"import mnv2_hpu.{name}" for name in modules)

  loaded = run_python(f"import sys; {imports}; print(*sys.modules)").split()

  assert "tensorflow" not in loaded


def test_version_of_the_distribution():
  assert metadata.version("mnv2-hpu") == mnv2_hpu.__version__
  assert re.fullmatch(r"\d+\.\d+\.\d+", mnv2_hpu.__version__)


def test_register_again_changes_nothing():
  from official.core import exp_factory
  from official.vision.modeling import backbones

  def registered():
    return (
      set(exp_factory._REGISTERED_CONFIGS),
      set(backbones.factory._REGISTERED_BACKBONE_CLS),
      sys.excepthook,
    )

  mnv2_hpu.register()
  first = registered()

  mnv2_hpu.register()

  assert registered() == first
  assert "mobilenet_v2_classification" in first[0]
  assert "mobilenet_v2" in first[1]


# The modules of `cli` define flags, some of the same name: each is its own program.
@pytest.mark.parametrize(
  "name",
  [
    module.name
    for module in pkgutil.walk_packages(mnv2_hpu.__path__, prefix="mnv2_hpu.")
    if not module.name.startswith("mnv2_hpu.cli")
  ],
)
def test_every_module_imports(name):
  assert importlib.import_module(name).__doc__


def test_console_scripts_lead_to_entry_points():
  scripts = metadata.distribution("mnv2-hpu").entry_points.select(
    group="console_scripts"
  )

  assert {"mnv2-train", "mnv2-evaluate", "mnv2-export", "mnv2-doctor"} <= scripts.names
  for script in scripts:
    module = script.module.removeprefix("mnv2_hpu.").replace(".", "/")
    source = Path(mnv2_hpu.__file__).parent.joinpath(f"{module}.py").read_text()
    assert f"def {script.attr}(" in source, script


def test_only_one_module_names_habana():
  naming = [
    file.name
    for file in Path(mnv2_hpu.__file__).parent.rglob("*.py")
    if "habana_frameworks" in file.read_text()
  ]

  assert naming == ["habana.py"]


@pytest.mark.skipif(
  "MNV2_HPU_INSTALLED" not in os.environ, reason="runs against the wheel: make test"
)
def test_the_wheel_is_what_is_tested():
  assert "site-packages" in mnv2_hpu.__file__
