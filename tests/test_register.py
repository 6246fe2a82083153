"""What `register()` changes outside the package: all of it, and nothing else."""

import json
import re
import subprocess
import sys

import mnv2_hpu
from mnv2_hpu import compat

# Caches, which any import or call fills.
CACHES = {"gin.config._ARG_SPEC_CACHE", "sys.modules", "sys.path_importer_cache"}

# Packages whose state a plugin could change.
UPSTREAM = (
  "absl",
  "gin",
  "keras",
  "official",
  "orbit",
  "sys",
  "tensorflow",
  "tf_keras",
)

# Prints what differs in modules and classes of upstream packages after register().
COMPARE = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
for name in json.loads(sys.argv[1]):
  importlib.import_module(name)

def members(holder):
  for name, value in list(vars(holder).items()):
    if isinstance(value, (dict, list, set)):
      value = (id(value), *map(str, value))  # a dict by its keys
    yield name, value if isinstance(value, tuple) else id(value)

def snapshot():
  state = {}
  for module_name in json.loads(sys.argv[1]):
    module = sys.modules[module_name]
    state[module_name] = dict(members(module))
    for name, value in list(vars(module).items()):
      if isinstance(value, type) and value.__module__ == module_name:
        state[f"{module_name}.{name}"] = dict(members(value))
  return state

before = snapshot()
import mnv2_hpu
from mnv2_hpu import compat
mnv2_hpu.register()
after = snapshot()
print(json.dumps(sorted({
  holder if holder not in sys.modules else f"{holder}.{name}"  # a class as a whole
  for holder in before
  for name in {*before[holder], *after[holder]}
  if before[holder].get(name) != after[holder].get(name)
})))
"""


def test_the_docstring_lists_all_that_register_changes():
  mnv2_hpu.register()
  modules = sorted(name for name in sys.modules if name.split(".")[0] in UPSTREAM)
  run = subprocess.run(
    [sys.executable, "-c", COMPARE, json.dumps(modules)],
    capture_output=True,
    text=True,
    check=True,
  )
  changed = set(json.loads(run.stdout)) - CACHES
  described = re.findall(r"`((?:\w+\.)+\w+)`", mnv2_hpu.register.__doc__)
  keras = compat.keras.layers.Layer.__module__.partition(".src.")[0]  # or tf_keras
  described = {re.sub(r"^keras\b", keras, name) for name in described}
  assert changed == {name for name in described if name.split(".")[0] in UPSTREAM} - {
    "official.vision.train"
  }
