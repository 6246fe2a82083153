"""Prints as JSON what Habana's real bridge says of itself. A program of its own: the
import patches Keras, and a library that was loaded stays."""

import inspect
import json
import os
import sys

import tensorflow as tf
from habana_frameworks.tensorflow import distribute, library_loader, sysconfig

from mnv2_hpu.distribute import habana


def main():
  """Looks at the bridge, then tries to open a device by this project's `load`."""
  if "after_an_operation" in sys.argv:
    tf.constant(0)
    print(json.dumps({"probe": habana.probe()}))
    return
  ops = tf.load_op_library(library_loader.habana_module_path)
  strategy = distribute.HPUStrategy
  extended = distribute._hpu_strategy.HabanaCollectiveAllReduceExtended
  facts = {
    "version": sysconfig.version_dict["VERSION"],
    "tensorflow": sysconfig._supported_tf_versions,
    "signature": list(inspect.signature(strategy.__init__).parameters),
    "bases": [one.__name__ for one in strategy.__mro__],
    "extended_bases": [one.__name__ for one in extended.__mro__],
    "handshake": [
      hasattr(ops, f"CollectiveCommHandshake{end}") for end in ("Producer", "Consumer")
    ],
    "probe": habana.probe(),
    "environment": dict(os.environ),
  }
  print(json.dumps(facts))


if __name__ == "__main__":
  main()
