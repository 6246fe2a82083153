"""Trainers for benchmarks: this project's and Model Garden's, of the same network."""

from official.core import base_trainer, exp_factory, task_factory

import mnv2_hpu
from mnv2_hpu.configs import image_classification
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.core import trainer

CLASSES, BATCH = 1001, 32


def ours(records, model_dir, count):
  """Returns the trainer of `mobilenet_v2_classification`, in float32.

  Args:
    records: Folder with `train-*`, which is evaluated too.
    model_dir: Folder of the run.
    count: Number of records.
  """
  mnv2_hpu.register()
  recipe = Recipe(
    data_dir=str(records),
    validation_files="train-*",
    num_classes=CLASSES,
    num_train_examples=count,
    num_validation_examples=count,
    batch_size=BATCH,
    eval_batch_size=BATCH,
  )
  return _build(image_classification.experiment(recipe), model_dir, trainer.Trainer)


def stock(records, model_dir, count):
  """Returns that of `mobilenet_imagenet`; arguments as those of `ours`."""
  config = exp_factory.get_exp_config("mobilenet_imagenet")
  for data in (config.task.train_data, config.task.validation_data):
    data.input_path = f"{records}/train-*"
    data.global_batch_size = BATCH
    data.dtype = "float32"
  config.trainer.validation_steps = -(-count // BATCH)
  return _build(config, model_dir, base_trainer.Trainer)


def _build(config, model_dir, trainer_cls):
  task = task_factory.get_task(config.task, logging_dir=str(model_dir))
  model = task.build_model()
  optimizer = task.create_optimizer(config.trainer.optimizer_config)
  if hasattr(optimizer, "shadow_copy"):
    optimizer.shadow_copy(model)
  return trainer_cls(config, task, model, optimizer, train=False, evaluate=True)
