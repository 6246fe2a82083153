"""Trainers for benchmarks: this project's and Model Garden's, of the same network."""

import tensorflow as tf
from official.common import distribute_utils
from official.core import base_trainer, exp_factory, task_factory

import mnv2_hpu
from mnv2_hpu.configs import image_classification
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.core import trainer

CLASSES, BATCH = 1001, 32


def ours(records, model_dir, count, **kwargs):
  """Returns the trainer of `mobilenet_v2_classification`, in float32.

  Args:
    records: Folder with `train-*`, which is evaluated too.
    model_dir: Folder of the run.
    count: Number of records.
    **kwargs: Of `_build`.
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
  config = image_classification.experiment(recipe)
  return _build(config, model_dir, trainer.Trainer, **kwargs)


def stock(records, model_dir, count, **kwargs):
  """Returns that of `mobilenet_imagenet`; arguments as those of `ours`."""
  config = exp_factory.get_exp_config("mobilenet_imagenet")
  for data in (config.task.train_data, config.task.validation_data):
    data.input_path = f"{records}/train-*"
    data.global_batch_size = BATCH
    data.dtype = "float32"
  config.trainer.validation_steps = -(-count // BATCH)
  return _build(config, model_dir, base_trainer.Trainer, **kwargs)


def _build(config, model_dir, trainer_cls, *, loops=0, steps_per_loop=0, **kwargs):
  """Builds one that evaluates, or one that trains so many loops as the driver does."""
  strategy = tf.distribute.get_strategy()
  if loops:
    config.trainer.train_steps = loops * steps_per_loop
    config.trainer.checkpoint_interval = loops * steps_per_loop
    config.trainer.steps_per_loop = config.trainer.summary_interval = steps_per_loop
    strategy = distribute_utils.get_distribution_strategy(
      config.runtime.distribution_strategy, num_gpus=0
    )
  with strategy.scope():
    task = task_factory.get_task(config.task, logging_dir=str(model_dir))
    model = task.build_model()
    optimizer = task.create_optimizer(config.trainer.optimizer_config)
    if hasattr(optimizer, "shadow_copy"):
      optimizer.shadow_copy(model)
    kwargs |= {"train": bool(loops), "evaluate": not loops}
    return trainer_cls(config, task, model, optimizer, **kwargs)
