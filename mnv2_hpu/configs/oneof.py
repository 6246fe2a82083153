"""Adds choices to Model Garden's one-of configs, such as its list of backbones."""

import dataclasses

from official.modeling import hyperparams

from mnv2_hpu.errors import UserError

# What `dataclasses.dataclass` generates from the fields of a class.
_GENERATED = (
  "__init__",
  "__repr__",
  "__eq__",
  "__match_args__",
  "__dataclass_fields__",
)


def add_choice(
  oneof_cls: type[hyperparams.OneOfConfig],
  name: str,
  config_cls: type[hyperparams.Config],
) -> None:
  """Adds a field to a one-of config, in place and for its subclasses as well.

  Every instance made afterwards has the field, so the experiments of Model Garden,
  which build such instances when they are looked up, accept the choice like their own:
  in overrides, in YAML files, by `type`. Idempotent.

  Args:
    oneof_cls: Dataclass, such as `official.vision.configs.backbones.Backbone`.
    name: Name of the field, and the value of `type` that chooses it.
    config_cls: Dataclass of the field; its defaults are those of the choice.

  Raises:
    UserError: If the class has something else of that name.
  """
  present = oneof_cls.__dataclass_fields__.get(name)
  if present is not None and present.type is config_cls:
    return
  if present is not None or hasattr(oneof_cls, name):
    raise UserError(
      f"{name!r} cannot be added to {oneof_cls.__module__}.{oneof_cls.__qualname__}: "
      "it has another field or method of that name. Choose another name, or do not "
      "import the package that added it."
    )
  extended = dataclasses.make_dataclass(
    oneof_cls.__name__,
    [(name, config_cls, dataclasses.field(default_factory=config_cls))],
    bases=(oneof_cls,),
  )
  known_subclasses = [cls for cls in oneof_cls.__subclasses__() if cls is not extended]
  # Decorating oneof_cls again would lose the default factories of its fields.
  for attribute in _GENERATED:
    setattr(oneof_cls, attribute, getattr(extended, attribute))
  oneof_cls.__annotations__[name] = config_cls
  for subclass in known_subclasses:
    add_choice(subclass, name, config_cls)
