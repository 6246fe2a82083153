"""The backbone as a choice of every experiment, and from configuration to network."""

import dataclasses

import numpy as np
import pytest
from official.core import exp_factory
from official.modeling import hyperparams
from official.vision import registry_imports  # noqa: F401
from official.vision.configs import backbones as upstream
from official.vision.configs import common
from official.vision.modeling.backbones import factory

from mnv2_hpu.compat import keras
from mnv2_hpu.configs import backbones
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling import mobilenet_v2, nasnet, nasnet_plans  # noqa: F401

NORM_ACTIVATION = common.NormActivation(
  activation="swish", norm_momentum=0.9, norm_epsilon=0.01, use_sync_bn=True
)


def choose(**fields):
  return {"type": "mobilenet_v2", "mobilenet_v2": fields}


def override(experiment, backbone):
  experiment.override({"task": {"model": {"backbone": backbone}}}, is_strict=True)


@pytest.mark.parametrize(
  "name",
  [
    "retinanet_resnetfpn_coco",
    "maskrcnn_resnetfpn_coco",
    "seg_deeplabv3_pascal",
    "resnet_imagenet",
  ],
)
def test_stock_experiments_take_it(name, tmp_path):
  experiment = exp_factory.get_exp_config(name)
  stock_type = experiment.task.model.backbone.type
  override(experiment, choose(width_multiplier=0.35, output_stride=16))
  chosen = experiment.task.model.backbone.get()
  assert chosen == backbones.MobileNetV2(width_multiplier=0.35, output_stride=16)
  experiment.validate()

  path = tmp_path / "params.yaml"
  hyperparams.save_params_dict_to_yaml(experiment, str(path))
  again = hyperparams.override_params_dict(
    exp_factory.get_exp_config(name), str(path), is_strict=True
  )
  assert again.task.model.backbone == experiment.task.model.backbone
  assert exp_factory.get_exp_config(name).task.model.backbone.type == stock_type


def test_unknown_field_is_an_error():
  experiment = exp_factory.get_exp_config("retinanet_resnetfpn_coco")
  with pytest.raises(KeyError, match="widht_multiplier"):
    override(experiment, choose(widht_multiplier=0.35))


def test_registering_again_changes_nothing():
  before = upstream.Backbone.__init__
  backbones.register()
  assert upstream.Backbone.__init__ is before


def build(regularizer=None, **fields):
  return factory.build_backbone(
    input_specs=keras.layers.InputSpec(shape=[None, 32, 32, 1]),
    backbone_config=upstream.Backbone(choose(**fields)),
    norm_activation_config=NORM_ACTIVATION,
    l2_regularizer=regularizer,
  )


def test_every_field_reaches_the_network():
  network = build(
    regularizer=keras.regularizers.l2(0.25),
    width_multiplier=0.5,
    output_stride=8,
    finegrain_classification_mode=False,
    output_intermediate_endpoints=True,
    kernel_initializer_stddev=0.02,
    trainable=False,
  )
  assert isinstance(network, mobilenet_v2.MobileNetV2)
  assert not network.trainable_variables
  assert network.input_shape == (None, 32, 32, 1)
  assert network.output["4"].shape.as_list() == [None, 4, 4, 640]  # 1280 * 0.5
  assert "3/depthwise" in network.output
  config = network.get_config()
  for field in ("activation", "norm_momentum", "norm_epsilon", "use_sync_bn"):
    assert config[field] == getattr(NORM_ACTIVATION, field)
  kernel = network.get_layer("expanded_conv_16/expand").kernel.numpy()
  # Truncation at two standard deviations leaves 0.88 of one.
  assert kernel.std() == pytest.approx(0.88 * 0.02, rel=0.02)
  assert len(network.losses) == 35
  np.testing.assert_allclose(
    network.losses[-2],  # before Conv_1 comes the last projection
    0.25 * np.square(network.get_layer("expanded_conv_16/project").kernel).sum(),
    rtol=1e-5,
  )


def test_defaults_are_the_networks():
  network = build()
  reference = mobilenet_v2.MobileNetV2(
    input_specs=keras.layers.InputSpec(shape=[None, 32, 32, 1]),
    **{name: getattr(NORM_ACTIVATION, name) for name in NORM_ACTIVATION.as_dict()},
  )
  assert {**network.get_config(), "name": ""} == {**reference.get_config(), "name": ""}


def test_every_field_of_nasnet_reaches_the_network():
  config = backbones.PNASNet(
    num_cells=4, num_conv_filters=4, drop_path_keep_prob=0.5, zero_padded_pools=True
  )
  network = factory.build_backbone(
    input_specs=keras.layers.InputSpec(shape=[None, 64, 64, 1]),
    backbone_config=upstream.Backbone({"type": "pnasnet", "pnasnet": config.as_dict()}),
    norm_activation_config=NORM_ACTIVATION,
    l2_regularizer=keras.regularizers.l2(0.25),
  )
  own = nasnet_plans.HPARAMS["pnasnet_mobile"]
  assert network.plan.hparams == dataclasses.replace(
    own,
    num_cells=4,
    num_conv_filters=4,
    drop_path_keep_prob=0.5,
    norm_momentum=NORM_ACTIVATION.norm_momentum,
    norm_epsilon=NORM_ACTIVATION.norm_epsilon,
  )
  assert network.get_config()["zero_padded_pools"]
  assert network.get_config()["activation"] == "swish"
  assert len(network.losses) == sum("kernel" in v.name for v in network.variables)


def test_networks_have_titles():
  titles = [config().title() for config in backbones.BACKBONES.values()]
  assert titles == ["MobileNetV2 1.0", "nasnet_mobile", "pnasnet_mobile"]


def test_a_network_of_the_other_family_is_refused():
  with pytest.raises(UserError, match=r"'nasnet_large' is no network of pnasnet"):
    factory.build_backbone(
      input_specs=keras.layers.InputSpec(shape=[None, 64, 64, 3]),
      backbone_config=upstream.Backbone(
        {"type": "pnasnet", "pnasnet": {"model_id": "nasnet_large"}}
      ),
      norm_activation_config=NORM_ACTIVATION,
    )


def test_impossible_values_are_reported():
  with pytest.raises(UserError, match=r"width_multiplier is -1"):
    build(width_multiplier=-1.0)
