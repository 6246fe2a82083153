"""Evaluates the EMA weights of a training run: once, or each new checkpoint.

Example, the run of `make quickstart`:

  mnv2-evaluate --model_dir=build/quickstart/model

As a sidecar of a running training, until it has ended:

  mnv2-evaluate --model_dir=build/quickstart/model --continuous
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

import mnv2_hpu
from mnv2_hpu.cli import command
from mnv2_hpu.cli.path_flags import define_path

if TYPE_CHECKING:
  from official.core import config_definitions as cfg
  from official.core import train_lib


def define_flags() -> None:
  """Defines the flags."""
  define_path(
    "model_dir", None, "Folder of the training run.", required=True, remote=True
  )
  flags.DEFINE_bool(
    "continuous", False, "Evaluate each new checkpoint until the training has ended."
  )
  flags.DEFINE_integer(
    "timeout", 3600, "Seconds that --continuous waits for a checkpoint."
  )
  flags.DEFINE_string(
    "distribution_strategy",
    None,
    "Where to evaluate; as the training did if not given.",
  )


def _runner(
  params: "cfg.ExperimentConfig", model_dir: str, mode: str
) -> "train_lib.OrbitExperimentRunner":
  """Builds Model Garden's runner with this project's trainer."""
  from official.core import task_factory, train_lib
  from official.modeling import performance

  from mnv2_hpu.core import trainer
  from mnv2_hpu.distribute import strategies

  performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  strategy = strategies.get_distribution_strategy(
    params.runtime.distribution_strategy, num_gpus=params.runtime.num_gpus
  )
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
    evaluator = trainer.Trainer(params, task, model, optimizer, train=False)
  return train_lib.OrbitExperimentRunner(
    strategy, task, mode, params, model_dir, trainer=evaluator
  )


def main(argv: Sequence[str]) -> int:
  """Prints the metrics of the newest checkpoint, or of each that comes."""
  del argv
  values = flags.FLAGS
  mnv2_hpu.register()
  from mnv2_hpu.configs import image_classification as exp_cfg
  from mnv2_hpu.core import run_record

  params = run_record.load(values.model_dir, exp_cfg.ImageClassificationTask())
  params.trainer.continuous_eval_timeout = values.timeout
  if values.distribution_strategy:
    params.runtime.distribution_strategy = values.distribution_strategy
  if values.continuous:
    _runner(params, values.model_dir, "continuous_eval").run()
    return 0
  run_record.require_checkpoint(values.model_dir)
  runner = _runner(params, values.model_dir, "eval")
  metrics = runner.controller.evaluate(params.trainer.validation_steps)
  print(f"step {int(runner.trainer.global_step.numpy()):,}, EMA weights")
  for name, value in sorted(metrics.items()):
    print(f"  {name:<20} {float(value):.5f}")
  return 0


def entry_point() -> None:
  """The console script `mnv2-evaluate`."""
  command.run(main, define_flags)


if __name__ == "__main__":
  entry_point()
