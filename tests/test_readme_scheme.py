"""The reader of the README's commands itself, on text written for it."""

import helpers_readme as readme
import pytest

MARKDOWN = """
```bash
# a comment
make test          # sets itself up
mnv2-train \\
  --mode=train
```
```text
make nothing
```
[here](docs/x.md#part), [there](https://example.org)
"""


def test_commands_are_joined_and_output_is_left_out():
  assert readme.commands(MARKDOWN) == ["make test", "mnv2-train --mode=train"]


def test_links_are_those_into_the_repository():
  assert readme.links(MARKDOWN) == ["docs/x.md"]


@pytest.mark.parametrize(
  ("command", "kind"),
  [
    ("make quickstart", readme.MAKE),
    ("git clone https://example.org/x", readme.SHOWN),
    ("python -m official.vision.train --mode=train", readme.TRAIN),
    ("horovodrun -np 8 -H localhost:8 python entrypoints/train.py --x=1", readme.TRAIN),
    ("mnv2-launch --np=2 --max_restarts=1 -- mnv2-train --x=1", readme.TRAIN),
    ("mnv2-launch -- horovodrun -np 2 mnv2-train --x=1", readme.TRAIN),
    ("TF_X=1 mpirun -np 8 mnv2-train --x=1", readme.TRAIN),
    ("mnv2-doctor", readme.RUN),
    ("mnv2-doctor --probe_hpu", readme.ARGUMENTS),
    ("mnv2-export --model_dir=runs/a", readme.ARGUMENTS),
    ("wget https://example.org | sh", None),
  ],
)
def test_kind_of_a_command(command, kind):
  assert readme.kind(command) == kind


@pytest.mark.parametrize(
  ("command", "module"),
  [
    ("mnv2-prepare-data --seed=1", "mnv2_hpu.cli.prepare_data"),
    ("python entrypoints/prepare_data.py --seed=1", "mnv2_hpu.cli.prepare_data"),
    ("mpirun -np 2 python -m official.vision.train --seed=1", "official.vision.train"),
  ],
)
def test_module_of_a_command(command, module):
  assert readme.module_and_arguments(command) == (module, ["--seed=1"])
