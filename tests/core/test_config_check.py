"""Numbers that no experiment can have."""

import pytest
from official.core import exp_factory

import mnv2_hpu
from mnv2_hpu.core import config_check
from mnv2_hpu.errors import UserError

mnv2_hpu.register()

_WHOLE = "it must be a whole number"


@pytest.mark.parametrize(
  ("path", "value", "allowed"),
  [
    *(
      (f"trainer.{name}", value, _WHOLE)
      for name in (
        "train_steps",
        "steps_per_loop",
        "summary_interval",
        "checkpoint_interval",
        "validation_interval",
        "max_to_keep",
      )
      for value in (2.5, 0, -5, "1e3", True)
    ),
    ("trainer.validation_steps", 0, "at least 1, or -1"),
    ("trainer.validation_steps", 1.5, _WHOLE),
    ("trainer.summary_interval", 1001, "a multiple of trainer.steps_per_loop"),
    ("trainer.loss_upper_bound", float("nan"), "it must be finite"),
    ("trainer.optimizer_config", 5, "it must be a group of fields"),
    ("task.train_data.global_batch_size", 12.8, _WHOLE),
    ("task.train_data.global_batch_size", -8, "at least 0"),
    ("task.train_data.shuffle_buffer_size", 0, "at least 1"),
    ("task.model.num_classes", 10.5, _WHOLE),
    ("task.model.input_size", [32.5, 32, 3], "a list, each of it a whole number"),
    ("task.model.input_size", "big", "a list"),
    ("task.model.input_size", [64], "height, width and channels"),
    ("task.train_data.input_path", 7, "a list or text"),
    ("task.model.dropout_rate", "high", "it must be a number"),
    ("task.losses.l2_weight_decay", -1.0, "at least 0"),
    ("runtime.num_gpus", 0.5, _WHOLE),
    ("task.model.norm_activation.norm_momentum", 2.0, "0 to 1"),
    ("task.model.norm_activation.norm_epsilon", -1.0, "more than 0"),
    ("task.model.dropout_rate", 1.0, "not including, 1"),
    ("task.losses.label_smoothing", 1.5, "0 to 1"),
    ("task.model.num_classes", 10**20, "at most 2,147,483,647"),
    ("trainer.train_steps", 10**300, "at most 2,147,483,647"),
  ],
)
def test_refused_with_field_value_and_what_is_allowed(path, value, allowed):
  config = exp_factory.get_exp_config("mobilenet_imagenet")
  *groups, name = path.split(".")
  owner = config
  for group in groups:
    owner = getattr(owner, group)
  setattr(owner, name, value)
  with pytest.raises(UserError) as raised:
    config_check.check(config, train=True)
  assert str(raised.value).startswith(f"{path} is {value!r}; it must be ")
  assert allowed in str(raised.value)


@pytest.mark.parametrize(
  "override",
  [
    {"trainer": {"validation_steps": -1, "recovery_max_trials": -1}},
    {"trainer": {"optimizer_config": {"warmup": {"linear": {"warmup_steps": 2.5}}}}},
    {"trainer": {"loss_upper_bound": float("inf")}},
  ],
)
def test_values_with_a_meaning_pass(override):
  config = exp_factory.get_exp_config("mobilenet_imagenet")
  config.override(override)
  config_check.check(config, train=True)


def test_experiments_of_model_garden_pass():
  for name in ("resnet_imagenet", "mobilenet_imagenet", "retinanet_resnetfpn_coco"):
    config_check.check(exp_factory.get_exp_config(name), train=True)


@pytest.mark.parametrize(
  ("group", "name", "value", "allowed"),
  [
    ("model", "head_channels", 0, "a whole number of at least 1"),
    ("model", "head_channels", -5, "a whole number of at least 1"),
    ("losses", "hard_pixel_share", 0.0, "more than 0, at most 1"),
    ("losses", "hard_pixel_share", 2.0, "more than 0, at most 1"),
  ],
)
def test_numbers_of_a_segmenter_have_ranges(group, name, value, allowed):
  config = exp_factory.get_exp_config("mobilenet_v2_deeplabv3plus")
  setattr(getattr(config.task, group), name, value)
  with pytest.raises(UserError, match=f"{name} is {value}; it must be {allowed}"):
    config_check.check(config, train=True)


def _with_service(experiment, **values):
  config = exp_factory.get_exp_config(experiment)
  service = {"service_address": "grpc://loader:5050", "deterministic": False}
  config.task.train_data.override(service | values)
  return config


@pytest.mark.parametrize(
  ("values", "allowed"),
  [
    ({"deterministic": True}, "deterministic=false with it, or read without a service"),
    ({"cache": True}, "cache=false with it, or read without a service"),
    ({"service_address": "loader"}, "as in grpc://localhost:5050"),
    ({"tf_data_service_address": "grpc://loader:5050"}, "train_data.service_address"),
    ({"enable_tf_data_service": True}, "train_data.service_address"),
  ],
)
def test_what_a_data_service_cannot_promise_is_refused(values, allowed):
  for experiment in ("mobilenet_v2_ssdlite", "mobilenet_v2_deeplabv3plus"):
    config_check.check(_with_service(experiment), train=True)
    with pytest.raises(UserError, match=allowed):
      config_check.check(_with_service(experiment, **values), train=True)
