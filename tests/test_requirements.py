"""What setup.py requires, which the doctor checks, and what the locks hold agree."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from mnv2_hpu import compat

pytestmark = pytest.mark.checkout

LOCKS = [
  (name, python) for name in compat.STACKS for python in compat.STACKS[name].pythons
]
each_lock = pytest.mark.parametrize(("stack", "python"), LOCKS)


def lock(checkout, stack, python):
  return (checkout / "requirements" / f"tf{stack}-python{python}.txt").read_text()


def locked(checkout, stack, python):
  text = lock(checkout, stack, python)
  return dict(re.findall(r"^([a-z0-9-]+)==([^ \\\n;]+)", text, re.MULTILINE))


def install_requires(checkout, python):
  text = (checkout / "setup.py").read_text()
  block = re.search(r"install_requires=\[(.*?)\n  \]", text, re.DOTALL)[1]
  found = [Requirement(line) for line in re.findall(r'"(.+?)"', block)]
  here = {"python_version": python}
  return [r for r in found if r.marker is None or r.marker.evaluate(here)]


def test_the_tools_and_the_doctor_know_the_same_stacks(checkout):
  lines = (checkout / "requirements/stacks.txt").read_text().splitlines()
  rows = [tuple(line.split()) for line in lines if not line.startswith("#")]

  for stack in compat.STACKS:
    pythons = tuple(python for name, python in rows if name == stack)
    assert pythons == compat.STACKS[stack].pythons
  assert rows[0] == ("2.15", "3.10")  # Gaudi's, wherever its Python is found
  locks = {path.name for path in (checkout / "requirements").glob("tf*.txt")}
  assert locks == {f"tf{stack}-python{python}.txt" for stack, python in rows}


@each_lock
def test_setup_and_the_stack_admit_the_locks(checkout, stack, python):
  versions = locked(checkout, stack, python)
  asked = install_requires(checkout, python)
  asked += [Requirement(bound) for bound in compat.STACKS[stack].bounds]

  assert len(asked) >= 5
  for requirement in asked:
    assert Version(versions[requirement.name.lower()]) in requirement.specifier
  assert compat.minor(versions[compat.MODEL_GARDEN]) == stack


@each_lock
def test_locks_hold_what_an_export_to_onnx_needs(checkout, stack, python):
  versions = locked(checkout, stack, python)
  extra = re.search(r'"onnx": \[(.+?)\]', (checkout / "setup.py").read_text())[1]

  for requirement in map(Requirement, re.findall(r'"(.+?)"', extra)):
    assert Version(versions[requirement.name]) in requirement.specifier


@each_lock
def test_locks_hold_no_cuda_build(checkout, stack, python):
  versions = locked(checkout, stack, python)

  assert "tensorflow-cpu" in versions
  assert "tensorflow" not in versions


def test_bridge_is_locked_where_it_has_wheels(checkout):
  for stack, python in LOCKS:
    version = locked(checkout, stack, python).get("habana-tensorflow")
    assert version == ("1.14.0.493" if (stack, python) == ("2.15", "3.10") else None)


@each_lock
def test_every_locked_package_has_a_hash(checkout, stack, python):
  packages = re.split(r"\n(?=[a-z])", lock(checkout, stack, python))

  assert [p.split()[0] for p in packages if "--hash=sha256:" not in p] == []


def test_the_lock_of_the_peers_has_hashes_and_no_cuda(checkout):
  text = (checkout / "requirements" / "peers.txt").read_text()
  packages = re.split(r"\n(?=[a-z])", text)

  assert [p.split()[0] for p in packages if "--hash=sha256:" not in p] == []
  assert re.search(r"^torch==[\d.]+\+cpu ", text, re.MULTILINE)
  assert not re.search("^(nvidia|cuda|triton)", text, re.MULTILINE)


def held_by_beam(checkout, python):
  """{name: version} of what the lock of Beam installs with a Python."""
  text = (checkout / "requirements" / "beam.txt").read_text()
  lines = re.findall(r"^([a-z].+?) \\$", text, re.MULTILINE)
  here = {"python_version": python, "python_full_version": f"{python}.0"}
  found = [
    r for r in map(Requirement, lines) if not r.marker or r.marker.evaluate(here)
  ]
  return {r.name: str(r.specifier).removeprefix("==") for r in found}


@pytest.mark.parametrize(("stack", "python"), [("2.15", "3.10"), ("2.20", "3.12")])
def test_beam_s_lock_fits_a_stack_and_setup(checkout, stack, python):
  held, versions = held_by_beam(checkout, python), locked(checkout, stack, python)
  extra = re.search(r'"beam": \["(.+?)"\]', (checkout / "setup.py").read_text())[1]

  for requirement in [Requirement(extra), *install_requires(checkout, python)]:
    assert Version(held[requirement.name.lower()]) in requirement.specifier
  for name in ("tensorflow-cpu", "tf-keras", "tf-models-official"):
    assert held[name] == versions[name]
  assert "tensorflow" not in held
