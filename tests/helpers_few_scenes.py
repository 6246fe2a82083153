"""The quickstart with a few scenes instead of thousands, for `Programs`.

  python -m helpers_few_scenes --task=detection --output_dir=DIR --train_epochs=0.5

What its steps leave to each other does not depend on how many scenes there are.
"""

import runpy

from mnv2_hpu import quickstart

TRAIN, VALIDATION = 96, 20


def main():
  """Runs the command; what it starts makes no scenes itself."""
  quickstart._NUM_SCENES = (TRAIN, VALIDATION)
  runpy.run_module("mnv2_hpu.cli.quickstart", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
