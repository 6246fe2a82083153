"""What is wrong with a gin file, a YAML file or an override, in one line.

gin and PyYAML know where they stopped, but say it in several lines or not at all; what
their errors lack (a file's name, the flag) stands in the frames that they passed.
Neither is imported here.
"""

import os
import pathlib
import re
import tokenize
import traceback
from collections.abc import Callable
from typing import Any

from mnv2_hpu.errors import did_you_mean

_FIRST_LINE = "A gin file starts with `import mnv2_hpu.registry_imports`."
_QUOTES = "Text stands in quotes"

# (pattern of the line, what to do about it); the first that is found.
_GIN_HINTS = (
  (r"^\ufeff", "The file starts with a byte order mark: save it as UTF-8 without one."),
  (r"^[^#'\"]*;", "Write one binding in a line, without semicolons."),
  (
    r"^\s*([\w./]+)\s*:\s*(?P<value>[^\s#].*)$",
    "A binding has an equals sign: configurable.parameter = {value}",
  ),
  (r"=\s*(true|false|none)\b", "The values are True, False and None."),
  (r"=\s*(#.*)?$", "The value is missing."),
  (r"=\s*['\"][^'\"]*$", "The closing quote is missing."),
  (
    r"^\s*(?P<name>[\w./]+)\s*=\s*(?P<value>(?!True|False|None)[^\s'\"#\[({@%\d-][^#]*?|[\d./-]*/[^#]*?)\s*$",
    _QUOTES + ': {name} = "{value}"',
  ),
)


def explain(error: BaseException) -> str | None:
  """Returns the message for the user, or None where the error is another one."""
  gin_file = _local(error, "gin.config", "parse_config_file", "config_file")
  override = _local(
    error, "params_dict", "override_params_dict", "dict_or_string_or_yaml_file"
  )
  if override is not None:
    return _explain_yaml(error, override)
  bindings = _local(error, "gin.config", "parse_config", "bindings")
  if isinstance(error, tokenize.TokenError) and bindings:  # from Python 3.12 on
    error = _as_syntax_error(error, bindings)
  if isinstance(error, SyntaxError) and bindings:
    return _explain_gin_syntax(error)
  if isinstance(error, UnicodeDecodeError) and gin_file is not None:
    return f"--gin_file={gin_file}: {_not_utf8(error)}"
  for error_class, pattern, message in _GIN_MESSAGES:
    match = re.search(pattern, str(error), re.DOTALL)
    if match and isinstance(error, error_class):
      return f"gin: {message(match)}{_place(error)}"
  return None


def _local(error: BaseException, module: str, function: str, name: str) -> Any:
  """Returns a variable of the innermost frame of a function that an error passed."""
  found = None
  for frame, _ in traceback.walk_tb(error.__traceback__):
    in_module = frame.f_globals.get("__name__", "").endswith(module)
    if in_module and frame.f_code.co_name == function:
      found = frame.f_locals.get(name)
  return found


def _as_syntax_error(error: tokenize.TokenError, bindings: Any) -> SyntaxError:
  """Returns the error as gin raises it for what Python can split into tokens."""
  message, (number, column) = error.args
  file = _local(error, "gin.config", "parse_config_file", "config_file_with_prefix")
  text = bindings if file is None else pathlib.Path(file).read_text()
  lines = text.splitlines()
  line = lines[min(number, len(lines)) - 1]
  return SyntaxError(message, (file, number, column, line))


def _explain_gin_syntax(error: SyntaxError) -> str:
  line = (error.text or "").rstrip("\n")
  where = f"{error.filename}, line {error.lineno}" if error.filename else "--gin_params"
  reason = str(error.msg).splitlines()[-1].strip()
  hint = "Allowed are lines such as: configurable.parameter = 'value'"
  if reason.startswith("Expected ','"):
    hint = "A bracket of an earlier line is not closed."
  for pattern, text in _GIN_HINTS:
    if match := re.search(pattern, line):
      groups = {k: v.strip() for k, v in match.groupdict().items() if v}
      hint = text.format(**groups)
      break
  return f"gin: {where}: cannot read {line.strip()!r} ({reason.rstrip('.')}). {hint}"


def _not_utf8(error: UnicodeDecodeError) -> str:
  line = error.object[: error.start].count(b"\n") + 1
  return (
    f"the byte 0x{error.object[error.start]:02x} near line {line} is no UTF-8. Save "
    "the file as UTF-8."
  )


def _place(error: BaseException) -> str:
  """Returns the innermost place that gin names: in which file and line."""
  match = re.search(r'\n  In file "(.+?)", line (\d+)', str(error))
  if match:
    return f" ({match[1]}, line {match[2]})"
  return " (--gin_params)" if "In bindings string" in str(error) else ""


def _unknown_parameter(match: re.Match[str]) -> str:
  import inspect

  from gin import config as gin_config

  configurable, parameter = match.groups()
  found = gin_config._REGISTRY.get_match(configurable)
  names = list(inspect.signature(found.wrapped).parameters) if found else []
  return (
    f"{configurable} has no parameter {parameter!r}. {did_you_mean(parameter, names)}"
  )


def _unknown_configurable(match: re.Match[str]) -> str:
  from gin import config as gin_config

  names = {selector.split(".")[-1] for selector, _ in gin_config._REGISTRY.items()}
  name = match["name"]
  return (
    f"nothing is called {name!r}. {did_you_mean(name.split('.')[-1], names)} "
    f"{_FIRST_LINE}"
  )


def _missing_binding(match: re.Match[str]) -> str:
  return (
    f"{match[1]} needs a value for {match[2]}. Bind it in the gin file or by "
    f"--gin_params='{match[1]}.{match[2].split(',')[0].strip()} = ...'. If the gin "
    "files are another recipe's, name it by --experiment."
  )


def _missing_macro(match: re.Match[str]) -> str:
  name = match[1]
  value = '"/path"' if name.endswith("DIR") else "..."
  return f"{name} needs a value, such as --gin_params='{name} = {value}'."


def _missing_file(match: re.Match[str]) -> str:
  if os.path.isdir(match[1]):
    return f"{match[1]} is a folder; it must be a file."
  return (
    f"{match[1]}: no such file. Looked in {os.getcwd()} and where mnv2_hpu keeps its "
    "own. Paths are relative to the folder that the program is started in."
  )


# (exception class, pattern of its message, message for the user)
_GIN_MESSAGES: tuple[
  tuple[type[Exception], str, Callable[[re.Match[str]], str]], ...
] = (
  (
    Exception,
    r"Configurable '([\w./]+)' doesn't have a parameter named '(\w+)'",
    _unknown_parameter,
  ),
  (
    Exception,
    r"No configurable matching (?:reference )?'@?(?P<name>[\w./]+)(?:\(\))?'",
    _unknown_configurable,
  ),
  (
    RuntimeError,
    r"Required bindings for `([\w./]+)` not provided in config: \['(.+?)'\]",
    _missing_binding,
  ),
  (
    ValueError,
    r"(\w+)/macro\.value set to `%gin\.REQUIRED` but not subsequently",
    _missing_macro,
  ),
  (ValueError, r"No bindings specified for '(\w+)/gin\.macro'", _missing_macro),
  (OSError, r"Unable to open file: (\S+?)\.? Searched config paths:", _missing_file),
  (
    ImportError,
    r"(.+?)\n  In file",
    lambda match: f"an import failed: {match[1]}.",
  ),
)


def _explain_yaml(error: BaseException, given: Any) -> str | None:
  """Explains an error while a YAML file or an override was read."""
  in_file = _local(error, "train_utils", "parse_config_file", "config_file")
  flag = "--params_override" if in_file is None else f"--config_file={in_file}"
  problem = getattr(error, "problem", None)
  if problem:  # PyYAML has it
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    hint = "Indent by spaces, not by tabs." if r"\t" in problem else ""
    return f"{flag}{where}: no valid YAML: {problem}. {hint}".rstrip()
  if isinstance(error, UnicodeDecodeError):
    return f"{flag}: {_not_utf8(error)}"
  if isinstance(error, AttributeError | TypeError) and in_file is not None:
    return (
      f"{flag}: it holds no settings. Allowed are the groups task, trainer and "
      "runtime, such as `trainer: {train_steps: 1000}`."
    )
  if type(error).__name__ in ("NotFoundError", "FailedPreconditionError"):
    if in_file is not None:
      return f"{flag}: {getattr(error, 'message', error)}. It must be a YAML file."
    return (
      f"{flag}={given}: neither name=value, nor YAML, nor a file. Values that hold a "
      "comma stand in quotes: --params_override='task.train_data.input_path=\"a,b\"'."
    )
  return None
