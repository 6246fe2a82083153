"""A program run with a MobileNetV2 of 3 blocks instead of 17, for `Programs`.

  python -m helpers_small_network MODULE ARGUMENTS…

Most of the seconds of a short training go into tracing its network. Where a test is
about the training, not about the network, this one is enough: it has what the whole one
has, blocks with and without expansion, strides and a residual connection among them.
"""

import runpy
import sys

from mnv2_hpu.modeling import block_specs

SPECS = (
  block_specs.BlockSpec(1, 16, 1, 1),
  block_specs.BlockSpec(6, 24, 2, 2),
)
# A detector reads features at the strides 16 and 32.
DETECTOR_SPECS = (
  *SPECS,
  block_specs.BlockSpec(6, 32, 1, 2),
  block_specs.BlockSpec(6, 96, 1, 2),
  block_specs.BlockSpec(6, 160, 1, 2),
)


def install():
  """Makes all networks of this process small."""
  is_detector = any("ssdlite" in argument for argument in sys.argv)
  block_specs.BLOCK_SPECS = DETECTOR_SPECS if is_detector else SPECS


def main():
  """Runs the module that the command line names."""
  install()
  sys.argv = sys.argv[1:]
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
