"""A pytest plugin for the doctests: lets all commands be imported by one process.

Each module of `mnv2_hpu.cli` is a program of its own, and several define a flag of the
same name. Their flags are taken back once their examples are collected.
"""

from absl import flags


def pytest_collectreport(report):
  """Called when the examples of a module, or of a folder, are collected."""
  del report
  for module, own in flags.FLAGS.flags_by_module_dict().items():
    if module.startswith("mnv2_hpu.cli."):
      for flag in own:
        delattr(flags.FLAGS, flag.name)
