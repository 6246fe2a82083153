"""What the report of a run says, and which pairs of folders it refuses."""

import pytest
from official.core import exp_factory

import mnv2_hpu
from mnv2_hpu.errors import UserError
from mnv2_hpu.evaluation import run_report

mnv2_hpu.register()


def test_fewer_classes_than_five_have_no_top_5():
  params = exp_factory.get_exp_config("mobilenet_imagenet")
  values = {"top1": 0.5, "num_examples": 12, "train_steps": 1000}
  assert run_report._highlights(values, params) == {
    "top-1, raw weights": "50.00%",
    "held-out images": "12",
    "training steps": "1,000",
  }


def test_the_export_of_another_run_is_refused(tmp_path):
  run, other = tmp_path / "run", tmp_path / "other"
  (run / "best_ckpt").mkdir(parents=True)
  other.mkdir()
  for checkpoint in (run / "ckpt-8", run / "best_ckpt" / "best_ckpt-1"):
    run_report._check_same_run(str(run), "export", str(checkpoint))
  run_report._check_same_run(str(run), "export", str(tmp_path / "moved" / "ckpt-8"))
  with pytest.raises(
    UserError, match=r"was made from .*other/ckpt-8', which is not of"
  ):
    run_report._check_same_run(str(run), "export", str(other / "ckpt-8"))
