"""The experiment that flags describe, with the source of every value."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import gin
from official.core import config_definitions as cfg
from official.core import train_utils

from mnv2_hpu.core import config_check
from mnv2_hpu.core.run_record import flatten


@dataclasses.dataclass(frozen=True)
class Value:
  """One resolved value and what set it; empty where the experiment made it."""

  value: Any
  source: str


@dataclasses.dataclass(frozen=True)
class Resolved:
  """A resolved experiment: the factory's arguments, and every field of the config."""

  experiment: str
  arguments: dict[str, Value]
  fields: dict[str, Value]
  params: cfg.ExperimentConfig


def _parse_gin(flags: Any, experiment: str) -> dict[str, Value]:
  """Parses the gin flags as the driver does, noting which of them binds what."""
  sources: list[tuple[str, Callable[[], Any]]] = [
    (file, functools.partial(gin.parse_config_file, file))
    for file in flags.gin_file or ()
  ]
  sources.append(
    ("--gin_params", functools.partial(gin.parse_config, flags.gin_params or []))
  )
  arguments: dict[str, Value] = {}
  for source, parse in sources:
    parse()
    # Read again each time: a file may import what registers the experiment.
    for name, default in _defaults(experiment).items():
      value, is_bound = default, True
      try:
        value = gin.query_parameter(f"{experiment}.{name}")
      except ValueError:  # gin's answer where nothing is bound
        is_bound = False
      known = arguments.get(name, Value(default, "default"))
      changed = is_bound and (known.source == "default" or known.value != value)
      arguments[name] = Value(value, source) if changed else known
  gin.finalize()
  return arguments


def _defaults(experiment: str) -> dict[str, Any]:
  """Returns defaults of the arguments of the experiment's gin configurable, if any."""
  configurable = gin.config._REGISTRY.get_match(experiment)
  if configurable is None:
    return {}
  parameters = inspect.signature(configurable.wrapped).parameters
  return {name: parameter.default for name, parameter in parameters.items()}


def resolve(flags: Any) -> Resolved:
  """Resolves the driver's flags in the driver's order: gin, YAML, overrides.

  Args:
    flags: parsed absl flags with `experiment`, `gin_file`, `gin_params`,
      `config_file` and `params_override`.

  Raises:
    LookupError: If the experiment is not registered (see `error_reports`).
    UserError: If a number is none, or out of its range.
    KeyError: If an override names an unknown field.
  """
  arguments = _parse_gin(flags, flags.experiment)
  parser = train_utils.ExperimentParser(flags)
  params = parser.base_experiment()
  before = dict(flatten(params.as_dict()))
  fields = {path: Value(value, "") for path, value in before.items()}
  for source, step in (
    ("--config_file", parser.parse_config_file),
    ("--tpu", parser.parse_runtime),
    ("--tf_data_service", parser.parse_data_service),
    ("--params_override", parser.parse_params_override),
  ):
    params = step(params)
    for path, value in flatten(params.as_dict()):
      if path not in fields or fields[path].value != value:
        fields[path] = Value(value, source)
  params.validate()
  config_check.check(params, train=True)
  return Resolved(flags.experiment, arguments, fields, params)


def describe(resolved: Resolved) -> str:
  """Returns the tables that `--dry_run` prints: what gin bound, then every value."""
  bound = {
    name: value
    for name, value in resolved.arguments.items()
    if value.source != "default"
  }
  lines = [f"experiment {resolved.experiment}"]
  for title, values in (
    ("bound arguments of the recipe", bound),
    (
      "resolved configuration, by the experiment where no flag is named",
      resolved.fields,
    ),
  ):
    if values:
      width = max(len(name) for name in values)
      lines += ["", title]
      lines += [
        f"  {name:<{width}}  {value.value!r}{_source(value)}"
        for name, value in values.items()
      ]
  return "\n".join(lines)


def _source(value: Value) -> str:
  return f"  [{value.source}]" if value.source else ""
