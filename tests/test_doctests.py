"""The examples of the docstrings, in this process: importing TensorFlow takes long."""

import doctest
import importlib
import pathlib
import sys

import pytest
from absl import flags

import mnv2_hpu

PACKAGE = pathlib.Path(mnv2_hpu.__file__).parent
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [
  ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
  for path in sorted(PACKAGE.rglob("*.py"))
  if ">>> " in path.read_text()
]


@pytest.fixture
def _own_flags():
  """Forgets the commands that a test imports: several define flags of one name."""
  before = set(sys.modules)
  yield
  for name in {
    name for name in sys.modules if name.startswith("mnv2_hpu.cli.")
  } - before:
    for flag in flags.FLAGS.flags_by_module_dict().get(name, []):
      delattr(flags.FLAGS, flag.name)
    del sys.modules[name]


@pytest.mark.usefixtures("_own_flags")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
  results = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)

  assert results.attempted
  assert not results.failed
