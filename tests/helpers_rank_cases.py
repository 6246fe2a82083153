"""One process of a training with several replicas; `helpers_rank_runs` starts them.

It runs cases one after another, and writes what this process held at the end of each to
CASE.RANK.npz: the losses by step, the error if one ended it, and every variable by name
and local replica.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from unittest import mock

import gin
import helpers_small_network
import numpy as np
import tensorflow as tf
from official.core import base_task, train_lib
from tensorflow.python.distribute import collective_all_reduce_strategy as collective

import mnv2_hpu.registry_imports  # noqa: F401
from mnv2_hpu import errors
from mnv2_hpu.compat import keras
from mnv2_hpu.configs import (
  image_classification,
  object_detection,
  semantic_segmentation,
)
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.distribute import (
  horovod,
  horovod_ops,
  horovod_strategy,
  rank_check,
  ranks,
  strategies,
  variable_sync,
)
from mnv2_hpu.modeling import block_specs
from mnv2_hpu.optimization import exponential_moving_average
from mnv2_hpu.tasks import object_detection as object_detection_task
from mnv2_hpu.tasks import semantic_segmentation as semantic_segmentation_task

BATCH = 12  # images of all replicas, which 2, 3 and 4 divide
SIZE = 8  # height and width of the images in pixels
DETECTION_SIZE, SEGMENTATION_SIZE = 48, 33
CLASSES = 4
STEPS = 10


@dataclasses.dataclass(frozen=True)
class Case:
  """What is trained, and what is broken on purpose."""

  policy: str = "float32"
  sync_bn: bool = True
  ema_decay: float = 0.99
  steps: int = STEPS
  steps_per_loop: int = 1
  seed: int = 0
  seed_by_rank: bool = False  # ranks draw different initial weights
  broadcast: bool = True  # False: neither at creation nor before the first step
  spoil_step: int = 0  # rank 1 changes a weight after this step
  resync_interval: int = 0
  mode: str = "train"
  task: str = "tiny"  # or "detection": SSDLite, or "segmentation": DeepLabv3
  resume_of: str = ""  # the case whose folder is used


CASES = {
  "sync_bn": Case(),
  "plain_bn": Case(sync_bn=False),
  "bfloat16": Case(policy="mixed_bfloat16"),
  "float64": Case(policy="float64"),
  "no_average": Case(ema_decay=0.0, steps=5),
  "seeds_healed": Case(seed_by_rank=True, broadcast=True, steps=2),
  "seeds_differ": Case(seed_by_rank=True, broadcast=False, steps=2),
  "spoiled": Case(spoil_step=3, steps=6),
  "resynced": Case(spoil_step=3, steps=6, resync_interval=5),
  "half": Case(sync_bn=False, steps=STEPS // 2),
  "rest": Case(sync_bn=False, resume_of="half"),
  "evaluated": Case(mode="eval", resume_of="half"),
  "detection": Case(task="detection", policy="float64", ema_decay=0.0, steps=3),
  "segmentation": Case(task="segmentation", policy="float64", ema_decay=0.0, steps=3),
}


def _examples(step):
  """The global batch of a step."""
  rng = np.random.default_rng(step)
  images = rng.standard_normal((BATCH, SIZE, SIZE, 3))
  return images, rng.integers(CLASSES, size=BATCH).astype(np.int32)


def _detection_examples(step):
  """The global batch of a step: images of another number of boxes each."""
  rng = np.random.default_rng(step)
  corners = rng.uniform(0, 0.5, (BATCH, BATCH, 2))
  boxes = np.concatenate([corners, corners + rng.uniform(0.2, 0.5, corners.shape)], -1)
  # Images of the first replica have fewer than those of the last.
  is_box = np.arange(BATCH) < np.arange(BATCH)[:, None]
  classes = np.where(is_box, rng.integers(1, CLASSES + 1, (BATCH, BATCH)), -1)
  images = rng.standard_normal((BATCH, DETECTION_SIZE, DETECTION_SIZE, 3))
  boxes = (boxes * is_box[..., None]).astype(np.float32)
  return images.astype(np.float32), {
    "boxes": boxes,
    "classes": classes.astype(np.int32),
  }


def _segmentation_examples(step):
  """The global batch of a step: of the first images fewer pixels count."""
  rng = np.random.default_rng(step)
  size = (BATCH, SEGMENTATION_SIZE, SEGMENTATION_SIZE)
  masks = rng.integers(CLASSES, size=(*size, 1))
  rows = np.arange(SEGMENTATION_SIZE)[:, None, None]
  counts = rows <= 2 * np.arange(BATCH)[:, None, None, None]
  images = rng.standard_normal((*size, 3)).astype(np.float32)
  return images, {"masks": np.where(counts, masks, 255).astype(np.uint8)}


def _task_inputs(examples, case, context, start_step):
  batches = [examples(step) for step in range(case.steps)]
  images = np.concatenate([images for images, _ in batches])
  labels = {
    name: np.concatenate([labels[name] for _, labels in batches])
    for name in batches[0][1]
  }
  return _dataset((images, labels), context, start_step)


def _inputs(case, context, start_step):
  dtype = np.float64 if case.policy == "float64" else np.float32
  batches = [_examples(step) for step in range(case.steps)]
  images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
  return _dataset((images.astype(dtype), labels), context, start_step)


def _dataset(examples, context, start_step):
  """Each replica's part of each batch, however replicas share processes."""
  context = context or tf.distribute.InputContext()
  share = BATCH // context.num_replicas_in_sync
  data = tf.data.Dataset.from_tensor_slices(examples)
  data = data.skip(start_step * BATCH).batch(share)
  # Cases follow each other in one process: giving up an iterator that is
  # autotuned may block it for a minute (docs/multi_device.md).
  options = tf.data.Options()
  options.autotune.enabled = False
  data = data.with_options(options)
  return data.shard(context.num_input_pipelines, context.input_pipeline_id)


def _tiny(case):
  def norm():
    return keras.layers.BatchNormalization(momentum=0.9, synchronized=case.sync_bn)

  return keras.Sequential(
    [
      keras.layers.InputLayer((SIZE, SIZE, 3)),
      keras.layers.Conv2D(6, 3, strides=2, use_bias=False),
      norm(),
      keras.layers.ReLU(6.0),
      keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False),
      norm(),
      keras.layers.ReLU(6.0),
      keras.layers.GlobalAveragePooling2D(),
      keras.layers.Dense(CLASSES),
      keras.layers.Activation(
        "linear", dtype="float64" if case.policy == "float64" else "float32"
      ),
    ]
  )


class _Losses(keras.metrics.Mean):
  """The mean loss of a loop in float64; Model Garden keeps it in float32."""

  def __init__(self):
    super().__init__("loss64", dtype="float64")


class TinyTask(base_task.Task):
  """Model Garden's own training step on a network of two convolutions."""

  case: Case

  def build_model(self):
    return _tiny(self.case)

  def create_optimizer(self, optimizer_config, runtime_config=None, dp_config=None):
    return exponential_moving_average.wrap_with_moving_average(
      super().create_optimizer(optimizer_config.replace(ema=None), runtime_config),
      optimizer_config.ema,
    )

  def build_inputs(self, params, input_context=None, start_step=0):
    return _inputs(self.case, input_context, start_step)

  def build_metrics(self, training=True):
    return [_Losses()]

  def build_losses(self, labels, model_outputs, aux_losses=None):
    return tf.reduce_mean(
      keras.losses.sparse_categorical_crossentropy(
        labels, model_outputs, from_logits=True
      )
    )

  def process_metrics(self, metrics, labels, model_outputs):
    loss = self.build_losses(labels, model_outputs)
    for metric in metrics:
      metric.update_state(loss)

  def initialize(self, model):
    pass


class TinyDetectionTask(object_detection_task.ObjectDetectionTask):
  """SSDLite on noise with boxes."""

  case: Case

  def check_inputs(self, train, evaluate):
    pass

  def build_inputs(self, params, input_context=None, start_step=0, repeat=False):
    return _task_inputs(_detection_examples, self.case, input_context, start_step)


class TinySegmentationTask(semantic_segmentation_task.SemanticSegmentationTask):
  """DeepLabv3 on noise with masks."""

  case: Case

  def check_inputs(self, train, evaluate):
    pass

  def build_inputs(self, params, input_context=None, start_step=0, repeat=False):
    return _task_inputs(_segmentation_examples, self.case, input_context, start_step)


TASKS = {
  "tiny": TinyTask,
  "detection": TinyDetectionTask,
  "segmentation": TinySegmentationTask,
}
BLOCK_SPECS = {
  "detection": helpers_small_network.DETECTOR_SPECS,
  "segmentation": helpers_small_network.SPECS,
}


def _params(case):
  """The same configuration in every process: that of one replica."""
  here = pathlib.Path(__file__)
  values = {
    "data_dir": str(here.parent),
    "train_files": here.name,
    "validation_files": here.name,
    "num_classes": CLASSES,
    "num_train_examples": BATCH * 5,
    "batch_size": BATCH,
    "eval_batch_size": BATCH,
    "image_size": SIZE,
    "ema_decay": case.ema_decay,
    "learning_rate": 0.01,
    "epsilon": 0.002,
    "seed": case.seed,
  }
  module, recipe = image_classification, Recipe(**values)
  if case.task == "detection":
    small = {"image_size": DETECTION_SIZE, "width_multiplier": 0.35}
    recipe = object_detection.DetectionRecipe(
      **{**values, **small, "use_sync_bn": case.sync_bn}
    )
    module = object_detection
  if case.task == "segmentation":
    small = {"image_size": SEGMENTATION_SIZE, "width_multiplier": 0.35}
    recipe = semantic_segmentation.SegmentationRecipe(
      **{**values, **small, "use_sync_bn": case.sync_bn, "dropout_rate": 0.0}
    )
    module = semantic_segmentation
  with mock.patch.dict(os.environ):
    for name in [*os.environ]:
      if name.startswith(("TF_CONFIG", "HOROVOD_", "OMPI_COMM_WORLD_")):
        del os.environ[name]
    params = module.experiment(recipe)
  params.override(
    {
      "trainer": {
        "train_steps": case.steps,
        "steps_per_loop": case.steps_per_loop,
        "summary_interval": case.steps_per_loop,
        "checkpoint_interval": 5,
        "validation_interval": 5,
        "best_checkpoint_export_subdir": "",
      }
    }
  )
  return params


def _spoil(case, strategy, model):
  """Returns a train action that changes one weight on rank 1."""
  steps = []

  def spoil(_):
    steps.append(None)
    if len(steps) == case.spoil_step and ranks.rank(strategy) == 1:
      kernel = strategy.experimental_local_results(model().trainable_variables[0])[0]
      kernel.assign(kernel * 1.01)

  return spoil


def _set_up_keras(case, seed):
  keras.backend.clear_session()  # names count from the start again
  keras.utils.set_random_seed(seed)
  keras.mixed_precision.set_global_policy(case.policy)
  keras.backend.set_floatx("float64" if case.policy == "float64" else "float32")


def _run(name, case, strategy, folder):
  rank = ranks.rank(strategy)
  _set_up_keras(case, case.seed + 100 * rank * case.seed_by_rank)
  gin.clear_config(clear_constants=True)
  gin.parse_config(
    f"""
    create_trainer.trainer_cls = @mnv2_hpu.Trainer
    mnv2_hpu.Trainer.resync_interval = {case.resync_interval}
    """
  )
  params = _params(case)
  model_dir = str(folder / f"{case.resume_of or name}.{rank}")
  with strategy.scope():
    task_cls = TASKS[case.task]
    task = task_cls(params.task, logging_dir=model_dir)
  task.case = case
  losses, models = [], []

  def build_model():
    models.append(task_cls.build_model(task))
    return models[-1]

  task.build_model = build_model

  def record_loss(output):
    losses.append(float(output.get("loss64", output["training_loss"])))

  runner = train_lib.OrbitExperimentRunner(
    strategy,
    task,
    case.mode,
    params,
    model_dir,
    train_actions=[record_loss, _spoil(case, strategy, lambda: models[-1])],
  )
  saved = runner.trainer.checkpoint
  error = ""
  try:
    runner.run()
  except rank_check.RanksDifferError as raised:
    error = str(raised)
  held = {"losses": np.array(losses, np.float64), "error": np.array(error)}
  for index, variable in enumerate(variable_sync.trained_variables(saved)):
    for part, local in enumerate(strategy.experimental_local_results(variable)):
      value = local.numpy()
      held[f"{index:04d}|{variable.name}|{part}"] = value
  np.savez(folder / f"{name}.{rank}.npz", **held)


def _strategy(name):
  if name == "mirrored":
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  return strategies.get_distribution_strategy(name, num_gpus=0)


# What rank 0 holds of each type; other ranks hold zeros. NaNs carry a payload.
SENT = {
  "float32": np.array([0x7FC01234, 0x80000000, 0x7F800000], np.uint32).view(np.float32),
  "float64": np.array([0x7FF8000000000ABC, 1], np.uint64).view(np.float64),
  "float16": np.array([0x7E01, 0x8000, 0x0001], np.uint16).view(np.float16),
  "bfloat16": np.array([0x7FC1, 0x8000], np.uint16).view(tf.bfloat16.as_numpy_dtype),
  "int32": np.array([-(2**31), 7], np.int32),
  "int64": np.array([2**63 - 1, -1], np.int64),
  "uint8": np.array([255, 0], np.uint8),
  "bool": np.array([True, False]),
}


def _collectives(name, strategy, folder):
  """Writes what each function of `ranks` returned on this rank."""
  rank = ranks.rank(strategy)
  variables = [
    tf.Variable(value if rank == 0 else np.zeros_like(value)) for value in SENT.values()
  ]
  with strategy.scope():
    variables += [
      tf.Variable(
        [float(rank + 1)],
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.MEAN,
      )
    ]
  ranks.broadcast_variables(strategy, variables)
  held = [ranks.local_value(strategy, variable).tobytes() for variable in variables]
  failure = ""
  try:
    with ranks.failing_together(strategy):
      if rank == 1:
        raise errors.UserError("only rank 1 sees this")
  except errors.UserError as raised:
    failure = str(raised)
  np.savez(
    folder / f"{name}.{rank}.npz",
    rank=rank,
    size=ranks.size(strategy),
    gathered=ranks.gather(strategy, np.array([[rank, 2**40 + rank]])),
    total=ranks.gather(strategy, np.array([-1, 2**40 + rank])).sum(axis=0),
    of_rank_0=ranks.broadcast_int(strategy, 5 - 10 * rank),
    failure=failure,
    **{key: np.frombuffer(b, np.uint8) for key, b in zip(SENT, held[:-1], strict=True)},
    statistics=np.frombuffer(held[-1], np.float32),
  )


# Operations of TensorFlow's collectives and of Horovod, and how often a rank of `size`
# sends the bytes that it gives to one, where ranks pass parts on in a ring.
TIMES_SENT = {
  "CollectiveReduce": lambda size: 2 * (size - 1) / size,
  "HorovodAllreduce": lambda size: 2 * (size - 1) / size,
  "HorovodAlltoall": lambda size: (size - 1) / size,
  "HorovodAllgather": lambda size: size - 1,
}


def _bytes_sent(operation, size):
  """Bytes that a rank sends for an operation; 0 if it is none of `TIMES_SENT`."""
  kinds = [kind for kind in TIMES_SENT if operation.type.startswith(kind)]
  if not kinds:
    return 0
  given = operation.inputs[0]
  return TIMES_SENT[kinds[0]](size) * given.shape.num_elements() * given.dtype.size


def _convolutions_before(operation):
  """Number of the convolutions whose gradient must be known before an operation."""
  found, waiting = set(), [operation]
  while waiting:
    op = waiting.pop()
    if op.name not in found:
      found.add(op.name)
      waiting += [tensor.op for tensor in op.inputs]
  return sum("BackpropFilter" in name for name in found)


def _count_bytes_sent(name, strategy, folder, **options):
  """Writes the bytes that a rank sends in a step, and what they wait for."""
  if options:
    hvd = horovod.import_horovod()
    strategy = horovod_strategy.HorovodStrategy(
      "device:CPU:0", hvd, horovod_ops.ReduceOptions(**options)
    )
  case = Case(sync_bn=False, ema_decay=0.0)
  _set_up_keras(case, case.seed)
  params = _params(case)
  images, labels = (tf.constant(part) for part in _examples(0))
  images = tf.cast(images, tf.float32)
  with strategy.scope():
    task = TinyTask(params.task)
    task.case = case
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    variable_sync.create_slots(optimizer, model.trainable_variables)

  @tf.function
  def step():
    return strategy.run(task.train_step, ((images, labels), model, optimizer))

  size = ranks.size(strategy)
  operations = [
    operation
    for operation in step.get_concrete_function().graph.get_operations()
    if _bytes_sent(operation, size)
  ]
  np.savez(
    folder / f"{name}.{ranks.rank(strategy)}.npz",
    sent=[_bytes_sent(operation, size) for operation in operations],
    convolutions=[_convolutions_before(operation) for operation in operations],
    gradients=sum(4 * v.shape.num_elements() for v in model.trainable_variables),
  )


# What is no training of `CASES`.
OTHERS = {
  "collectives": _collectives,
  "sent": _count_bytes_sent,
  "sent_bf16": functools.partial(_count_bytes_sent, compression="bf16"),
  "sent_fp16": functools.partial(_count_bytes_sent, compression="fp16"),
  "sent_in_buckets": functools.partial(_count_bytes_sent, bucket_bytes=128),
}


@contextlib.contextmanager
def without_broadcast():
  """No rank takes over rank 0's values, at creation or later: the seed's bug."""

  def own_value(extended, replica_id, device, primary_var, **kwargs):
    value = kwargs["initial_value"]
    return value if callable(value) else lambda: value

  name = "_get_variable_creator_initial_value"
  with (
    mock.patch.object(ranks, "broadcast_variables"),
    mock.patch.object(collective.CollectiveAllReduceExtended, name, own_value),
    mock.patch.object(horovod_strategy.HorovodExtended, name, own_value),
  ):
    yield


def main(strategy_name, folder, names):
  """Runs cases of `CASES` in the environment of a rank."""
  strategy = _strategy(strategy_name)
  for name in names:
    if name in OTHERS:
      OTHERS[name](name, strategy, folder)
      continue
    case = CASES[name]
    block_specs.BLOCK_SPECS = BLOCK_SPECS.get(case.task)
    with contextlib.nullcontext() if case.broadcast else without_broadcast():
      _run(name, case, strategy, folder)
    print(f"done {name}", flush=True)
