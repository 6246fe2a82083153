"""Model Garden's moving average of weights (EMA), started and swapped as slim needs."""

from typing import Any

import tensorflow as tf
from official.modeling import optimization
from official.modeling.optimization.configs import optimizer_config

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError


@keras.utils.register_keras_serializable(package="mnv2_hpu")
class ExponentialMovingAverage(optimization.ExponentialMovingAverage):
  """An optimizer that also keeps moving averages of the weights it updates.

  After each step, with v the value of a weight and n the number of steps before it::

      decay   = min(average_decay, (1 + n) / (10 + n))
      average <- average - (1 - decay) * (average - v)

  What differs from Model Garden's class, of which this is a subclass (its trainer and
  its actions ask for that):

  * Shadow variables start equal to the weights, not at zero.
  * n is the step before it is counted, as in slim (`num_updates=global_step` in
    `train_image_classifier.py`).
  * By default batch statistics are averaged as well, which slim does too.
  * Swapping goes through a copy: swapping twice leaves every bit as it was, and an
    infinity or a NaN stays where it is.
  * A checkpoint says whether it was written while swapped: see `is_swapped`.

  v is the value after the step. In slim's graph nothing orders the two; in all runs
  that were observed it read the value before the step, one step later. After the step
  is a fixed order, and the last step counts.

  Shadow variables are the slots `average`, as in Model Garden. Those of replica-local
  batch statistics are replica-local too; reading one gives the mean.

  Args:
    optimizer: A legacy Keras optimizer.
    average_decay: Maximum decay, in [0, 1).
    trainable_weights_only: Whether to leave batch statistics out; they are not swapped
      either.
    start_step: Step until which the shadow variables equal the weights.
    dynamic_decay: Whether the decay grows; False uses `average_decay` from the start.
    name: Name of the optimizer.
    **kwargs: Arguments of Keras's optimizer.

  Raises:
    UserError: If the decay is out of range or the optimizer is of Keras's new kind.
  """

  def __init__(
    self,
    optimizer: keras.optimizers.legacy.Optimizer,
    average_decay: float = 0.9999,
    trainable_weights_only: bool = False,
    start_step: int = 0,
    dynamic_decay: bool = True,
    name: str = "ExponentialMovingAverage",
    **kwargs: Any,
  ) -> None:
    if not isinstance(optimizer, keras.optimizers.legacy.Optimizer):
      raise UserError(
        f"ExponentialMovingAverage received {type(optimizer).__name__}; it needs an "
        "optimizer of keras.optimizers.legacy, for instance 'rmsprop_tf1' or 'sgd'."
      )
    if not 0 <= average_decay < 1:
      raise UserError(
        f"average_decay is {average_decay!r}; it must be at least 0 and below 1."
      )
    super().__init__(
      optimizer,
      trainable_weights_only=trainable_weights_only,
      average_decay=average_decay,
      start_step=start_step,
      dynamic_decay=dynamic_decay,
      name=name,
      **kwargs,
    )
    self._start = start_step
    with self._distribution_strategy_scope():
      self._swapped = tf.Variable(
        0,
        trainable=False,
        dtype=tf.int64,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        name="swapped",
      )
    self._track_trackable(self._swapped, "swapped")

  @tf.autograph.experimental.do_not_convert  # which takes a second at each start
  def apply_gradients(self, *args: Any, **kwargs: Any) -> tf.Operation:
    """Updates the weights, then their averages."""
    return super().apply_gradients(*args, **kwargs)

  @property
  def base_optimizer(self) -> keras.optimizers.legacy.Optimizer:
    """The optimizer that computes the steps, and holds their slots."""
    return self._optimizer

  @property
  def is_swapped(self) -> bool:
    """Whether the model now holds the EMA weights, and the slots the raw ones.

    Part of each checkpoint: Model Garden writes `best_ckpt` and `ema_checkpoints` in
    this state, and whoever resumes from one of them must swap first.
    """
    return bool(self._swapped.numpy())

  def shadow_copy(self, model: keras.Model) -> None:
    """Creates the shadow variables, equal to the weights; integers have none.

    Raises:
      UserError: If the model has no weights yet.
    """
    weights = (
      model.trainable_variables if self._trainable_weights_only else model.variables
    )
    if not weights:
      raise UserError(
        f"the model {model.name!r} has no weights to average. Build it first."
      )
    self._model_weights = [v for v in weights if v.dtype.is_floating]
    with self._distribution_strategy_scope():
      self._average_weights = [self._add_shadow(v) for v in self._model_weights]
    self._swap_in_graph = tf.function(self._swap)

  def _add_shadow(self, weight: tf.Variable) -> tf.Variable:
    """Creates a slot that is distributed over replicas as its weight is."""

    def distributed_as_the_weight(next_creator: Any, **kwargs: Any) -> tf.Variable:
      return next_creator(
        **{
          **kwargs,
          "synchronization": weight.synchronization,
          "aggregation": weight.aggregation,
        }
      )

    def initial_value(shape: tf.TensorShape, dtype: tf.DType) -> tf.Tensor:
      local = tf.distribute.get_strategy().experimental_local_results(weight)[0]
      return tf.reshape(tf.cast(local.read_value(), dtype), shape)

    with tf.variable_creator_scope(distributed_as_the_weight):
      return self.add_slot(weight, "average", initializer=initial_value)

  def reset_shadow_variables(self) -> None:
    """Sets the shadow variables to the weights, which were read after `shadow_copy`.

    Before `shadow_copy` there is nothing to set: it starts from the weights it finds.
    """

    def reset(average: tf.Variable, weight: tf.Variable) -> None:
      average.assign(weight.read_value())

    if self.has_shadow_copy:
      self._update_pairs(reset)
      self._swapped.assign(0)

  def update_average(self, strategy: tf.distribute.Strategy) -> None:
    """Updates the shadow variables by their weights; `apply_gradients` calls it."""
    del strategy  # the context has it
    steps = tf.cast(self.iterations - 1 - self._start, tf.float32)
    decay = tf.constant(self._average_decay, tf.float32)
    if self._dynamic_decay:
      decay = tf.minimum(decay, (1.0 + steps) / (10.0 + steps))
    if self._start:
      decay = tf.where(steps < 0, 0.0, decay)

    def decay_towards(average: tf.Variable, weight: tf.Variable) -> None:
      average.assign_sub((average - weight) * tf.cast(1.0 - decay, average.dtype))

    self._update_pairs(decay_towards)

  def swap_weights(self) -> None:
    """Swaps the shadow variables and the weights of the model.

    Raises:
      UserError: If there are no shadow variables yet, or inside of `strategy.run`.
    """
    if not self.has_shadow_copy:
      raise UserError(
        "there are no EMA weights to swap: call shadow_copy(model) first."
      )
    if tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context():
      raise UserError("swap_weights was called by a replica: call it outside of run.")
    with self._distribution_strategy_scope():
      self._swap_in_graph()

  def _swap(self) -> None:
    def swap(average: tf.Variable, weight: tf.Variable) -> None:
      kept = tf.identity(average.read_value())
      average.assign(weight.read_value())
      weight.assign(kept)

    self._update_pairs(swap)
    self._swapped.assign(1 - self._swapped)

  def _update_pairs(self, update: Any) -> None:
    """Calls `update(average, weight)` for every pair, on all of its devices."""
    strategy = tf.distribute.get_strategy()
    for average, weight in zip(self._average_weights, self._model_weights, strict=True):
      strategy.extended.update(average, update, args=(weight,), group=False)

  def variables(self) -> list[tf.Variable]:
    """Returns what must be equal on every rank: shadow variables, slots, iterations."""
    return [*self._weights, *self._optimizer.variables()]

  def get_config(self) -> dict[str, Any]:
    """Returns what `from_config` builds an equal optimizer from."""
    return {
      "name": self._name,
      "optimizer": keras.optimizers.serialize(self._optimizer),
      "average_decay": self._average_decay,
      "trainable_weights_only": self._trainable_weights_only,
      "start_step": self._start,
      "dynamic_decay": self._dynamic_decay,
    }

  @classmethod
  def from_config(
    cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
  ) -> "ExponentialMovingAverage":
    """Builds the optimizer that `get_config` describes."""
    optimizer = keras.optimizers.deserialize(
      config["optimizer"],
      custom_objects=custom_objects,
      use_legacy_optimizer=True,
    )
    return cls(optimizer, **{k: v for k, v in config.items() if k != "optimizer"})


def wrap_with_moving_average(
  optimizer: keras.optimizers.legacy.Optimizer,
  ema_config: optimizer_config.EMAConfig | None,
) -> keras.optimizers.legacy.Optimizer:
  """Wraps an optimizer by its EMA; None leaves it as it is.

  Args:
    optimizer: A legacy Keras optimizer without EMA.
    ema_config: Value of `trainer.optimizer_config.ema`.

  Raises:
    UserError: If it clips gradients, which only the optimizer inside does.
  """
  if ema_config is None:
    return optimizer
  fields = ema_config.as_dict()
  for name in ("clipnorm", "clipvalue", "global_clipnorm"):
    if fields.pop(name) is not None:
      raise UserError(
        f"trainer.optimizer_config.ema.{name} has no effect. Set {name} of the "
        "optimizer, trainer.optimizer_config.optimizer, instead."
      )
  return ExponentialMovingAverage(optimizer, **fields)
