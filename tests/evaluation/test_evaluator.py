"""What an evaluation knows of a run besides its weights."""

import json

from official.core import exp_factory

import mnv2_hpu
from mnv2_hpu.evaluation import evaluator

mnv2_hpu.register()


def segmenter(folder):
  params = exp_factory.get_exp_config("mobilenet_v2_deeplabv3")
  params.task.model.num_classes = 3
  params.task.validation_data.input_path = str(folder / "validation-*")
  return params


def test_numbers_instead_of_names_are_told(tmp_path, capsys):
  assert evaluator.class_names(segmenter(tmp_path), str(tmp_path)) == ["0", "1", "2"]
  told = capsys.readouterr().err
  assert told.startswith("warning: classes are shown by number")
  assert repr(str(tmp_path)) in told
  assert told.count("\n") == 1


def test_names_of_imported_weights_are_taken_without_a_word(tmp_path, capsys):
  content = {"label_names": ["ground", "cat", "dog"]}
  (tmp_path / "import.json").write_text(json.dumps(content))
  names = evaluator.class_names(segmenter(tmp_path / "no"), str(tmp_path))
  assert names == content["label_names"]
  assert capsys.readouterr().err == ""
