"""What the flags of Habana's launcher mean here, against a table written by hand."""

import pytest

from mnv2_hpu.cli.legacy import slim_flags
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.errors import UserError

RECIPE = "mobilenet_v2_classification"


def place(strategy, num_gpus=0):
  return [
    f"{RECIPE}.distribution_strategy = {strategy!r}",
    f"{RECIPE}.num_gpus = {num_gpus}",
  ]


@pytest.mark.parametrize(
  ("values", "device", "world_size", "gin_params"),
  [
    ({}, "hpu", 1, place("hpu")),
    ({}, "cpu", 1, place("one_device")),
    ({}, "gpu", 1, place("one_device", 1)),
    ({"num_clones": 4}, "gpu", 1, place("mirrored", 4)),
    ({"clone_on_cpu": True}, "cpu", 1, place("one_device")),
    ({}, "hpu", 8, place("hpu")),
    ({}, "cpu", 2, place("multi_worker_mirrored")),
    ({"use_horovod": True, "num_workers": 8}, "hpu", 8, place("horovod")),
    ({"worker_replicas": 2, "num_ps_tasks": "0"}, "hpu", 2, place("hpu")),
    (
      {"dtype": "fp32", "learning_rate": 0.1, "num_epochs_per_decay": 2.0},
      "cpu",
      1,
      [
        *place("one_device"),
        f"{RECIPE}.compute_dtype = 'float32'",
        f"{RECIPE}.learning_rate = 0.1",
        f"{RECIPE}.decay_epochs = 2.0",
      ],
    ),
    (
      {"dtype": "bf16"},
      "hpu",
      1,
      [*place("hpu"), f"{RECIPE}.compute_dtype = 'bfloat16'"],
    ),
    (
      {"dtype": "bf16", "bf16_config_path": "full"},
      "hpu",
      1,
      [
        *place("hpu"),
        f"{RECIPE}.compute_dtype = 'float32'",
        "mnv2_hpu.hpu.bf16_conversion = 'full'",
      ],
    ),
  ],
)
def test_flags_become_bindings(values, device, world_size, gin_params):
  found = slim_flags.translate(values, device, world_size, rank=0)

  assert found.gin_params == gin_params
  assert found.overrides == []


def test_steps_and_batches_override_the_experiment():
  values = {"max_number_of_steps": 500, "max_num_batches": 400}

  found = slim_flags.translate(values, "cpu", world_size=1, rank=0)

  assert found.overrides == ["trainer.train_steps=500", "trainer.validation_steps=400"]


@pytest.mark.parametrize(
  ("values", "device", "message"),
  [
    ({"num_clones": 8}, "hpu", "--num_clones=8 on hpu.*mpirun -np 8"),
    ({"num_clones": 2}, "cpu", "--num_clones=2 on cpu"),
    ({"clone_on_cpu": True}, "hpu", "--clone_on_cpu and --device=hpu contradict"),
    ({"num_ps_tasks": "1"}, "hpu", "--num_ps_tasks=1.*no parameter servers"),
    ({"num_workers": 8}, "hpu", r"--num_workers=8, but.*0 of 1.*mpirun -np 8"),
    ({"worker_replicas": 2}, "cpu", "--worker_replicas=2, but this is process 0 of 1"),
    ({"task": 3}, "hpu", "--task=3, but this is process 0 of 1"),
    ({"dtype": "fp16"}, "hpu", "--dtype=fp16: allowed are bf16 and fp32"),
    ({"bf16_config_path": "full"}, "hpu", "needs --dtype=bf16 --device=hpu"),
    ({"master": "grpc://a"}, "hpu", "--master=grpc://a.*mpirun or horovodrun"),
    ({"model_name": "nasnet"}, "hpu", "--model_name=nasnet.*docs/backbone_swap.md"),
    ({"dataset_name": "flowers"}, "hpu", "--dataset_name=flowers.*mnv2-prepare-data"),
  ],
)
def test_what_cannot_be_is_refused_with_what_to_use(values, device, message):
  with pytest.raises(UserError, match=message):
    slim_flags.translate(values, device, world_size=1, rank=0)


def test_every_recipe_flag_is_a_field_of_the_recipe():
  fields = set(Recipe.__dataclass_fields__)

  assert {field for _, field, _ in slim_flags.RECIPE_FLAGS.values()} <= fields
