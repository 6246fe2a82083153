"""Flags of the running driver, read and set: the only module beside `cli` to do so."""

import functools
from typing import Any

import gin
from absl import flags, logging

from mnv2_hpu import paths
from mnv2_hpu.errors import UserError

# Model Garden's driver offers these modes and then raises NotImplementedError.
MODE_ALIASES = {"continuous_train_and_eval": "train_and_eval"}

# These wait for checkpoints, which only rank 0 could see.
ONE_PROCESS_MODES = ("continuous_eval",)


def _get(name: str) -> Any:
  """Returns a flag of the running driver, None outside of one or where it lacks it."""
  is_known = flags.FLAGS.is_parsed() and name in flags.FLAGS
  return flags.FLAGS[name].value if is_known else None


def override(name: str, value: Any) -> None:
  """Sets a flag of the running driver, where it has one of that name."""
  if flags.FLAGS.is_parsed() and name in flags.FLAGS:
    setattr(flags.FLAGS, name, value)


def driver_mode() -> str | None:
  """Returns `--mode` of the running driver, or None outside of one."""
  return _get("mode")


def driver_experiment() -> str | None:
  """Returns `--experiment` of the running driver, or None outside of one."""
  return _get("experiment")


def gin_files() -> list[str]:
  """Returns `--gin_file` of the running driver, empty outside of one."""
  return _get("gin_file") or []


def profile_steps() -> list[str] | None:
  """Returns `--profile_steps` of `mnv2-train` as it was split at the commas."""
  return _get("profile_steps")


def alias_modes() -> None:
  """Gives `--mode=continuous_train_and_eval` its meaning in the vision driver.

  Called when the driver requests its strategy: the last moment before it uses the mode.
  """
  mode = driver_mode()
  if mode in MODE_ALIASES:
    logging.info("--mode=%s runs as --mode=%s", mode, MODE_ALIASES[mode])
    override("mode", MODE_ALIASES[mode])


def flag_values() -> flags.FlagValues | None:
  """Returns all flags of the running driver, or None outside of one."""
  is_driver = driver_mode() is not None and driver_experiment() is not None
  return flags.FLAGS if is_driver else None


def check_mode(num_processes: int) -> None:
  """Refuses a mode that several processes cannot run together.

  Raises:
    UserError: Naming the mode.
  """
  mode = driver_mode()
  if num_processes > 1 and mode in ONE_PROCESS_MODES:
    raise UserError(
      f"--mode={mode} is for one process; {num_processes} were started. Start it "
      "without horovodrun, mpirun and TF_CONFIG, beside the training, or train with "
      "--mode=train_and_eval."
    )


def given_paths() -> dict[str, str]:
  """Returns `--model_dir` of the running driver, by the flag's name."""
  if flags.FLAGS.is_parsed() and "model_dir" in flags.FLAGS and flags.FLAGS.model_dir:
    return {"model_dir": flags.FLAGS.model_dir}
  return {}


@functools.cache
def install_path_check() -> None:
  """Expands `~` in `--model_dir`, and checks the folder, when gin has been parsed.

  In Model Garden's drivers that is before they read it.

  Raises:
    UserError: From the hook, if the folder cannot serve.
  """

  @gin.config.register_finalize_hook
  def hook(config: dict) -> None:
    del config  # binds nothing
    for name, path in given_paths().items():
      try:
        path = paths.resolve(path)
        if "train" in (driver_mode() or ""):
          paths.check_writable(path)
      except UserError as error:
        raise UserError(f"--{name}: {error}") from error
      flags.FLAGS[name].value = path
