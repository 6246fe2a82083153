"""What the stock driver's flags lack."""

from absl import flags, logging

from mnv2_hpu.errors import UserError

# Model Garden's driver offers these modes and then raises NotImplementedError.
MODE_ALIASES = {"continuous_train_and_eval": "train_and_eval"}

# These wait for checkpoints, which only rank 0 could see.
ONE_PROCESS_MODES = ("continuous_eval",)


def alias_modes() -> None:
  """Gives `--mode=continuous_train_and_eval` its meaning in the vision driver.

  Called when the driver asks for its strategy: the last moment before it uses the mode.
  """
  if not (flags.FLAGS.is_parsed() and "mode" in flags.FLAGS):
    return
  alias = MODE_ALIASES.get(flags.FLAGS.mode)
  if alias:
    logging.info("--mode=%s runs as --mode=%s", flags.FLAGS.mode, alias)
    flags.FLAGS.mode = alias


def driver_mode() -> str | None:
  """Returns `--mode` of the running driver, or None outside of one."""
  if flags.FLAGS.is_parsed() and "mode" in flags.FLAGS:
    return flags.FLAGS.mode
  return None


def check_mode(num_processes: int) -> None:
  """Refuses a mode that several processes cannot run together.

  Raises:
    UserError: naming the mode.
  """
  mode = driver_mode()
  if num_processes > 1 and mode in ONE_PROCESS_MODES:
    raise UserError(
      f"--mode={mode} is for one process; {num_processes} were started. Start it "
      "without horovodrun, mpirun and TF_CONFIG, beside the training, or train with "
      "--mode=train_and_eval."
    )
