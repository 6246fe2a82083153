"""A setting is declared once, has its default once, and keeps its name to its use."""

import ast
import collections
import dataclasses
import pathlib

import pytest

import mnv2_hpu
from mnv2_hpu.configs import image_classification
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.dataloaders import input_fields
from mnv2_hpu.dataloaders.input_fields import InputFields, PreprocessingFields

PACKAGE = pathlib.Path(mnv2_hpu.__file__).parent
DECLARED_IN = pathlib.Path(input_fields.__file__)

# Fields of one name with two defaults, and why.
TWO_MEANINGS = {
  "name": "of an optimizer, of a schedule",
  "num_classes": "0 asks the recipe's data set; the model's is ImageNet's",
}


# Recipes of other tasks, which repeat a field of `TrainingRecipe` with another default.
OTHER_RECIPES = (
  "DetectionRecipe",
  "NASNetRecipe",
  "SegmentationRecipe",
  "SegmentationPlusRecipe",
  "QuantizationRecipe",
  "SegmentationQATRecipe",
)


def _names(fields_cls):
  return [field.name for field in dataclasses.fields(fields_cls)]


@pytest.fixture(scope="module")
def sources():
  return {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def _declared_fields(tree):
  """Yields (class, field, default) of every annotated field of every class."""
  for cls in ast.walk(tree):
    if isinstance(cls, ast.ClassDef):
      for statement in cls.body:
        if isinstance(statement, ast.AnnAssign):
          yield cls.name, statement.target.id, statement.value


def test_a_field_of_the_input_is_declared_once(sources):
  ours = {*_names(InputFields), *_names(PreprocessingFields)}
  elsewhere = [
    (path.name, cls, field)
    for path, tree in sources.items()
    if path != DECLARED_IN
    for cls, field, _ in _declared_fields(tree)
    if field in ours and field != "seed"  # a preparation has one of its own
    if cls not in ("HubConfig", "Network", "PretrainedInfo")  # what weights expect
    if cls not in OTHER_RECIPES
  ]
  assert not elsewhere


@pytest.mark.parametrize("field", _names(InputFields) + _names(PreprocessingFields))
def test_a_field_of_the_input_is_read_by_its_name(sources, field):
  readers = [
    path.name
    for path, tree in sources.items()
    if path != DECLARED_IN and path.parent.name != "configs"
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and node.attr == field
  ]
  assert readers


def test_every_field_of_the_input_goes_from_the_recipe_to_the_experiment():
  recipe = Recipe(data_dir="data", num_classes=3, num_train_examples=8)
  for name in (*_names(InputFields), *_names(PreprocessingFields)):
    default = getattr(recipe, name)
    other = {bool: not default, str: "model_garden", tuple: (0.2, 0.3), int: 7}
    setattr(recipe, name, other.get(type(default), 0.5))
  task = image_classification.experiment(recipe).task
  for data in (task.train_data, task.validation_data):
    for name in _names(InputFields):
      assert getattr(data, name) == getattr(recipe, name), name
    for name in _names(PreprocessingFields):
      assert getattr(data.preprocessing_options, name) == getattr(recipe, name), name


def test_every_default_stands_once(sources):
  places = collections.defaultdict(list)
  for path, tree in sources.items():
    if path.parent.name == "configs" or path == DECLARED_IN:
      for cls, field, default in _declared_fields(tree):
        if cls in OTHER_RECIPES:
          continue
        is_value = isinstance(default, ast.Constant) and default.value is not None
        if is_value or isinstance(default, ast.Tuple):
          places[field].append(f"{path.name}: {cls}")
  twice = {field: where for field, where in places.items() if len(where) > 1}
  assert {field: twice[field] for field in twice if field not in TWO_MEANINGS} == {}
  assert set(TWO_MEANINGS) <= set(twice)
