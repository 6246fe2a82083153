"""What setup.py requires, which the doctor checks, and what the locks hold agree."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

pytestmark = pytest.mark.checkout

PYTHONS = ("3.10", "3.11")


def locked(checkout, python):
  text = (checkout / "requirements" / f"python{python}.txt").read_text()
  return dict(re.findall(r"^([a-z0-9-]+)==([^ \\\n;]+)", text, re.MULTILINE))


def install_requires(checkout):
  text = (checkout / "setup.py").read_text()
  block = re.search(r"install_requires=\[(.*?)\n  \]", text, re.DOTALL)[1]
  return [Requirement(line) for line in re.findall(r'"(.+?)"', block)]


@pytest.mark.parametrize("python", PYTHONS)
def test_setup_admits_the_locks(checkout, python):
  versions = locked(checkout, python)
  asked = install_requires(checkout)

  assert len(asked) >= 5
  for requirement in asked:
    assert Version(versions[requirement.name.lower()]) in requirement.specifier


@pytest.mark.parametrize("python", PYTHONS)
def test_locks_hold_no_cuda_build(checkout, python):
  versions = locked(checkout, python)

  assert "tensorflow-cpu" in versions
  assert "tensorflow" not in versions


def test_bridge_is_locked_where_it_has_wheels(checkout):
  assert locked(checkout, "3.10")["habana-tensorflow"] == "1.14.0.493"
  assert "habana-tensorflow" not in locked(checkout, "3.11")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_locked_package_has_a_hash(checkout, python):
  text = (checkout / "requirements" / f"python{python}.txt").read_text()
  packages = re.split(r"\n(?=[a-z])", text)

  assert [p.split()[0] for p in packages if "--hash=sha256:" not in p] == []
