"""Choices added to a one-of config behave as those it was written with."""

import copy
import dataclasses
import typing

import pytest
import yaml
from official.modeling import hyperparams

from mnv2_hpu.configs import oneof
from mnv2_hpu.errors import UserError


@dataclasses.dataclass
class Square(hyperparams.Config):
  side: float = 1.0


@dataclasses.dataclass
class Circle(hyperparams.Config):
  radius: float = 2.0
  colours: list[str] = dataclasses.field(default_factory=lambda: ["red"])


@pytest.fixture
def shape_cls():
  """A one-of config as Model Garden writes them; new for each test."""

  @dataclasses.dataclass
  class Shape(hyperparams.OneOfConfig):
    type: str | None = None
    square: Square = dataclasses.field(default_factory=Square)

  return Shape


@pytest.fixture
def extended_cls(shape_cls):
  oneof.add_choice(shape_cls, "circle", Circle)
  return shape_cls


def test_choice_by_type(extended_cls):
  shape = extended_cls(type="circle")
  assert shape.get() == Circle()
  assert shape.as_dict() == {
    "type": "circle",
    "circle": {"radius": 2.0, "colours": ["red"]},
  }


def test_choice_by_keyword(extended_cls):
  assert extended_cls(type="circle", circle=Circle(radius=5)).get().radius == 5


def test_the_old_choice_and_its_default_stay(extended_cls):
  first, second = extended_cls(type="square"), extended_cls()
  first.square.side = 7.0
  assert second.square.side == 1.0
  assert first.as_dict() == {"type": "square", "square": {"side": 7.0}}


def test_each_instance_has_its_own_choice(extended_cls):
  first, second = extended_cls(), extended_cls()
  first.circle.radius = 7.0
  assert second.circle.radius == 2.0


def test_strict_overrides(extended_cls):
  shape = extended_cls()
  shape.override({"type": "circle", "circle": {"radius": 9.0}}, is_strict=True)
  assert shape.get() == Circle(radius=9.0)
  with pytest.raises(KeyError, match="diameter"):
    shape.override({"circle": {"diameter": 1}}, is_strict=True)


def test_values_from_a_dictionary_have_the_type_of_the_choice(extended_cls):
  from_dictionary = extended_cls({"type": "circle", "circle": {"radius": 4.0}})
  assert isinstance(from_dictionary.circle, Circle)
  emptied = extended_cls(circle=None)
  emptied.override({"circle": {"radius": 3.0}})
  assert isinstance(emptied.circle, Circle)


def test_yaml_round_trip(extended_cls, tmp_path):
  shape = extended_cls(type="circle", circle=Circle(radius=3.0, colours=["a", "b"]))
  path = tmp_path / "shape.yaml"
  path.write_text(yaml.safe_dump(shape.as_dict()))
  assert extended_cls.from_yaml(str(path)) == shape


def test_copies(extended_cls):
  shape = extended_cls(type="circle")
  copied = copy.deepcopy(shape)
  copied.circle.radius = 8.0
  replaced = shape.replace(circle={"radius": 6.0})
  assert [s.circle.radius for s in (shape, copied, replaced)] == [2.0, 8.0, 6.0]


def test_comparison_and_text_know_the_choice(extended_cls):
  assert extended_cls() == extended_cls()
  assert extended_cls() != extended_cls(circle=Circle(radius=1.0))
  assert "circle=Circle(radius=2.0" in repr(extended_cls())


def test_fields_and_type_hints_list_the_choice(extended_cls):
  assert [f.name for f in dataclasses.fields(extended_cls)] == [
    "type",
    "square",
    "circle",
  ]
  assert typing.get_type_hints(extended_cls)["circle"] is Circle


def test_subclasses_have_it_whenever_they_are_written(shape_cls):
  @dataclasses.dataclass
  class Earlier(shape_cls):
    square: Square = dataclasses.field(default_factory=lambda: Square(side=3.0))

  oneof.add_choice(shape_cls, "circle", Circle)

  @dataclasses.dataclass
  class Later(shape_cls):
    dot: Square = dataclasses.field(default_factory=Square)

  assert Earlier(type="circle").get() == Circle()
  assert Earlier().square.side == 3.0
  assert Later(type="circle").get() == Circle()


def test_adding_twice_changes_nothing(extended_cls):
  before = dict(vars(extended_cls))
  oneof.add_choice(extended_cls, "circle", Circle)
  assert dict(vars(extended_cls)) == before


def test_two_choices(extended_cls):
  oneof.add_choice(extended_cls, "ring", Circle)
  shape = extended_cls(type="ring", ring=Circle(radius=1.0))
  assert (shape.get().radius, shape.circle.radius) == (1.0, 2.0)


@pytest.mark.parametrize("name", ["square", "type", "as_dict"])
def test_a_name_that_is_taken(shape_cls, name):
  with pytest.raises(UserError, match=f"'{name}' cannot be added to .*Shape: it has"):
    oneof.add_choice(shape_cls, name, Circle)
  assert shape_cls(type="square").get() == Square()
