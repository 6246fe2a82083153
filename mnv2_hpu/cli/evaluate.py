"""Evaluates the averaged weights of a training run: once, or each new checkpoint.

Example, the run of `make quickstart`:

  mnv2-evaluate --model_dir=build/quickstart/model

As a sidecar of a running training, until it has ended:

  mnv2-evaluate --model_dir=build/quickstart/model --continuous
"""

from collections.abc import Sequence

from mnv2_hpu.cli import process

process.set_up()

from absl import flags  # noqa: E402
from official.core import config_definitions as cfg  # noqa: E402
from official.core import task_factory, train_lib  # noqa: E402
from official.modeling import performance  # noqa: E402

import mnv2_hpu  # noqa: E402
from mnv2_hpu.cli import main as cli_main  # noqa: E402
from mnv2_hpu.configs import image_classification as exp_cfg  # noqa: E402
from mnv2_hpu.core import run_record, trainer  # noqa: E402
from mnv2_hpu.distribute import strategies  # noqa: E402

_MODEL_DIR = flags.DEFINE_string(
  "model_dir", None, "Folder of the training run.", required=True
)
_CONTINUOUS = flags.DEFINE_bool(
  "continuous", False, "Evaluate each new checkpoint until the training has ended."
)
_TIMEOUT = flags.DEFINE_integer(
  "timeout", 3600, "Seconds that --continuous waits for a checkpoint."
)
_DISTRIBUTION_STRATEGY = flags.DEFINE_string(
  "distribution_strategy", None, "Where to evaluate; as the training did if not given."
)


def _runner(
  params: cfg.ExperimentConfig, model_dir: str, mode: str
) -> train_lib.OrbitExperimentRunner:
  """Builds Model Garden's runner with this project's trainer."""
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
  model_dir = _MODEL_DIR.value
  params = run_record.load(model_dir, exp_cfg.ImageClassificationTask())
  params.trainer.continuous_eval_timeout = _TIMEOUT.value
  if _DISTRIBUTION_STRATEGY.value:
    params.runtime.distribution_strategy = _DISTRIBUTION_STRATEGY.value
  if _CONTINUOUS.value:
    _runner(params, model_dir, "continuous_eval").run()
    return 0
  run_record.require_checkpoint(model_dir)
  runner = _runner(params, model_dir, "eval")
  metrics = runner.controller.evaluate(params.trainer.validation_steps)
  print(f"step {int(runner.trainer.global_step.numpy()):,}, averaged weights")
  for name, value in sorted(metrics.items()):
    print(f"  {name:<20} {float(value):.5f}")
  return 0


def entry_point() -> None:
  """The console script `mnv2-evaluate`."""
  mnv2_hpu.register()
  cli_main.run(main)


if __name__ == "__main__":
  entry_point()
