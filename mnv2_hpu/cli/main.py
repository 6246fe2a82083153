"""How every command runs: absl flags, help, one clear message for a user's mistake."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from mnv2_hpu import error_reports


def _show_in_help(main: Callable, flag_names: Sequence[str]) -> None:
  """Makes `--help` print the docstring and the flags of the module of `main`.

  absl looks for both in the script that was started, which only calls this module.
  """
  module = sys.modules[main.__module__]
  sys.modules["__main__"].__doc__ = module.__doc__
  own = flags.FLAGS.flags_by_module_dict().get(main.__module__, [])
  for flag in [*own, *(flags.FLAGS[name] for name in flag_names)]:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def run(
  main: Callable[[Sequence[str]], int | None],
  show_flags: Sequence[str] = (),
  takes_arguments: bool = False,
) -> None:
  """Runs `main(argv)` under absl; never returns.

  A mistake of the user's (see `error_reports.explain`) ends with its message on
  standard error and exit code 1, without a traceback. Everything else is a defect and
  keeps its traceback.

  Args:
    main: receives the arguments that absl did not consume, the program's name first;
      returns the exit code, None meaning 0. Its module's docstring and flags are what
      `--help` shows.
    show_flags: names of further flags that `--help` shows.
    takes_arguments: whether `main` reads arguments that are no flags.
  """
  _show_in_help(main, show_flags)

  def reporting(argv: Sequence[str]) -> int | None:
    if len(argv) > 1 and not takes_arguments:
      print(f"error: arguments not understood: {argv[1:]}", file=sys.stderr)
      return 1
    try:
      return main(argv)
    except Exception as error:
      explanation = error_reports.explain(error)
      if explanation is None:
        raise
      print(f"error: {explanation}", file=sys.stderr)
      return 1

  app.run(reporting)
