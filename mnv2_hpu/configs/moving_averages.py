"""Whether a training is long enough for its moving averages to forget their start."""

from official.core import config_definitions as cfg

from mnv2_hpu.configs import step_counts


def _decays(config: cfg.ExperimentConfig) -> dict[str, float]:
  """Returns the decay of each moving average of a training that moves, by its field."""
  found = {}
  norm = getattr(config.task.model, "norm_activation", None)
  if norm is not None and not getattr(config.task, "freeze_backbone", False):
    found["norm_momentum"] = norm.norm_momentum
  ema = config.trainer.optimizer_config.ema
  if ema is not None:
    found["ema_decay"] = ema.average_decay
  return {name: decay for name, decay in found.items() if 0 < decay < 1}


def rows(config: cfg.ExperimentConfig) -> list[tuple[str, str]]:
  """Returns the rows of the startup table: each decay and its half-life."""
  text = ", ".join(
    f"{name} {decay:g} (half-life of {step_counts.half_life(decay):,.0f} steps)"
    for name, decay in _decays(config).items()
  )
  return [("averages", text)] if text else []


def warning(config: cfg.ExperimentConfig) -> str:
  """Returns a warning if the steps are too few for the moving averages, else ""."""
  steps = config.trainer.train_steps
  slow = {
    name: decay
    for name, decay in _decays(config).items()
    if step_counts.steps_needed(decay) > steps
  }
  if not slow:
    return ""
  values = " and ".join(f"{name} {decay:g}" for name, decay in slow.items())
  slowest = max(slow.values())
  chosen = " ".join(getattr(config.task, "chosen", ()))
  bound = [name for name in slow if f"{name} = " not in chosen]
  rebind = f", or bind {' and '.join(bound)} to None, which chooses by the steps"
  return (
    f"{steps:,} steps are few for {values}, whose half-life is "
    f"{step_counts.half_life(slowest):,.0f} steps: evaluation would see statistics of "
    f"the first steps. Train {step_counts.steps_needed(slowest):,} steps or more "
    f"(train_epochs, or a smaller batch_size){rebind if bound else ''}."
  )
