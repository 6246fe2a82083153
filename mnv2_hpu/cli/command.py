"""How every command runs: absl flags, help, one line for a user's mistake."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from mnv2_hpu import deprecations, error_reports
from mnv2_hpu.cli import path_flags

_BROKEN_PIPE = 128 + 13
INTERRUPTED = 128 + 2  # what a shell reports of a command that SIGINT ended

Main = Callable[[Sequence[str]], int | None]


def _show_in_help(main: Main, flag_names: Sequence[str]) -> None:
  """Makes `--help` print the docstring of the module of `main`, and these flags.

  absl looks for both in the script that was started, which only calls this module.
  """
  sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
  for name in flag_names:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
  try:
    return flags.FLAGS(deprecations.rename_flags(argv, flags.FLAGS))
  except flags.Error as error:
    sys.exit(f"error: {error} (--help shows the flags.)")
  except SystemExit:  # absl has shown the help, with exit code 1
    sys.exit(0)


def _call(
  main: Main, takes_arguments: bool, loads_tensorflow: bool, argv: Sequence[str]
) -> NoReturn:
  # absl has looked `sys.exit` up already; a training replaces it (`core.termination`).
  code = _exit_code(main, takes_arguments, loads_tensorflow, argv)
  sys.exit(code)


def _exit_code(
  main: Main, takes_arguments: bool, loads_tensorflow: bool, argv: Sequence[str]
) -> int | None:
  if len(argv) > 1 and not takes_arguments:
    print(f"error: arguments not understood: {argv[1:]}", file=sys.stderr)
    return 1
  if loads_tensorflow:  # ten seconds of silence otherwise
    print("loading TensorFlow …", file=sys.stderr, flush=True)
  try:
    code = main(argv)
    sys.stdout.flush()
    return code
  except BrokenPipeError:  # the reader has seen enough, as `head` has
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE
  except (Exception, KeyboardInterrupt) as error:
    explanation = error_reports.explain(error, path_flags.given())
    if explanation is None:
      raise
    print(f"error: {explanation}", file=sys.stderr)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def run(
  main: Main,
  define_flags: Callable[[], None],
  *,
  show_flags: Sequence[str] | None = None,
  takes_arguments: bool = False,
  loads_tensorflow: bool = True,
) -> NoReturn:
  """Runs `main(argv)` under absl; never returns.

  A mistake of the user's (see `error_reports.explain`) ends with its message on
  standard error and exit code 1, Ctrl-C with one line and 130, both without a
  traceback. Everything else is a defect and keeps its traceback.

  Args:
    main: Receives the arguments that absl did not consume, the program's name first;
      returns the exit code, None meaning 0. `--help` shows the docstring of its module.
    define_flags: Defines the flags of the command.
    show_flags: Names of the flags that `--help` shows; None shows all of
      `define_flags`.
    takes_arguments: Whether `main` reads arguments that are no flags.
    loads_tensorflow: Whether `main` imports TensorFlow, which is said.
  """
  before = set(flags.FLAGS)
  define_flags()
  defined = [name for name in flags.FLAGS if name not in before]
  _show_in_help(main, defined if show_flags is None else show_flags)
  app.run(
    functools.partial(_call, main, takes_arguments, loads_tensorflow),
    flags_parser=_parse_flags,
  )
  raise AssertionError("app.run ends the process")
