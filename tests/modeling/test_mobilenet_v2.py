"""The network's structure: counts, shapes, names, settings, errors."""

import functools
import json
import math
import warnings

import backbone_contract
import golden_recipes
import numpy as np
import pytest
from official.vision.modeling.backbones import mobilenet

from mnv2_hpu.compat import keras
from mnv2_hpu.errors import UserError
from mnv2_hpu.modeling.mobilenet_v2 import MobileNetV2

ARCH = json.loads((golden_recipes.GOLDEN / "arch.json").read_text())
NUM_CLASSES = 1001
IMAGES_224 = keras.layers.InputSpec(shape=[None, 224, 224, 3])

build = functools.cache(MobileNetV2)  # for tests that leave the network as it is


def layers_of(network, layer_type):
  return [layer for layer in network.layers if isinstance(layer, layer_type)]


def convolutions(network):
  """All but the depthwise ones, which Keras derives from Conv."""
  return [
    layer
    for layer in layers_of(network, keras.layers.Conv2D)
    if not isinstance(layer, keras.layers.DepthwiseConv2D)
  ]


@pytest.mark.parametrize(
  ("width", "mode"),
  [
    *[(width, "plain") for width in (0.35, 0.5, 0.75, 1.0, 1.4)],
    *[(width, "finegrain") for width in (0.35, 0.5, 0.75)],  # from 1 on, it is plain
  ],
)
@pytest.mark.fidelity
def test_parameter_counts_are_slims(width, mode, fidelity):
  network = build(width, finegrain_classification_mode=mode == "finegrain")
  head = (network.output["6"].shape[-1] + 1) * NUM_CLASSES
  trainable = sum(math.prod(v.shape) for v in network.trainable_variables)
  golden = ARCH["multipliers"][str(width)][mode]
  fidelity(
    f"trainable parameters, width {width} {mode}, 1001 classes",
    f"{golden['trainable_params']:,}",
    f"{trainable + head:,}",
    trainable + head - golden["trainable_params"],
    "0",
  )
  assert trainable + head == golden["trainable_params"]
  assert network.count_params() + head == golden["model_params"]


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.4])
def test_parameter_counts_are_those_of_keras_applications(width):
  keras_network = keras.applications.MobileNetV2(
    alpha=width, weights=None, include_top=False, input_shape=(96, 96, 3)
  )
  network = build(width, finegrain_classification_mode=width < 1)
  assert network.count_params() == keras_network.count_params()


def test_variables_have_slims_names_and_shapes():
  golden, _ = golden_recipes.load("logits_1.0_96.npz")
  slim = dict(zip(golden["variable_names"], golden["variable_shapes"], strict=True))
  expected = {name: shape for name, shape in slim.items() if "/Logits/" not in name}
  found = {
    golden_recipes.slim_name(v.name): "x".join(map(str, v.shape))
    for v in build().variables
  }
  assert found == expected


CHANNELS = {"2": 8, "3": 16, "4": 32, "5": 112, "6": 1280}  # at width 0.35


def test_contract():
  backbone_contract.check_backbone(
    functools.partial(MobileNetV2, 0.35),
    num_trainable=ARCH["multipliers"]["0.35"]["finegrain"]["trainable_params"]
    - (1280 + 1) * NUM_CLASSES,
    num_parameters=ARCH["multipliers"]["0.35"]["finegrain"]["model_params"]
    - (1280 + 1) * NUM_CLASSES,
    channels=CHANNELS,
    # The batch norm behind it subtracts whatever a projection adds.
    zero_gradients="project/BatchNorm/beta:0$",
    sizes=((96, 96), (97, 65), (33, 47), (1, 2)),
  )


@pytest.mark.parametrize(
  ("output_stride", "channels"),
  [
    (8, {"2": 8, "3": 112, "4": 1280}),
    (16, {"2": 8, "3": 16, "4": 112, "5": 1280}),
    (32, CHANNELS),
  ],
)
def test_output_stride(output_stride, channels):
  backbone_contract.check_shapes(
    build(0.35, output_stride),
    channels,
    sizes=((96, 96), (97, 65), (33, 47), (1, 2)),
  )


def build_with_endpoints(output_stride):
  return build(
    output_stride=output_stride,
    input_specs=IMAGES_224,
    output_intermediate_endpoints=True,
  )


@pytest.mark.parametrize("output_stride", [None, 16])
def test_levels_and_specs_are_those_of_model_garden(output_stride):
  ours = build_with_endpoints(output_stride)
  stock = mobilenet.MobileNet(
    "MobileNetV2",
    input_specs=IMAGES_224,
    output_stride=output_stride,
    output_intermediate_endpoints=True,
  )
  added = {key for key in ours.output if key.endswith("/expansion")}
  assert ours.output.keys() - added == stock.output.keys()
  assert ours.output_specs.keys() - added == stock.output_specs.keys()
  for key, features in stock.output.items():
    assert ours.output[key].shape == features.shape, key
  for key, shape in stock.output_specs.items():
    assert ours.output_specs[key] == shape, key


@pytest.mark.parametrize("output_stride", [None, 8, 16])
def test_intermediate_endpoints_are_slims_last_of_their_resolution(output_stride):
  slim = ARCH["endpoints_1.0_224"][str(output_stride)]
  inside = [
    (key, *key.split("/"), features)
    for key, features in build_with_endpoints(output_stride).output.items()
    if "/" in key
  ]
  assert len(inside) >= 4
  for key, level, name, features in inside:
    *_, last = [
      shape
      for endpoint, shape in slim.items()
      if endpoint.endswith(f"/{name}_output") and shape[0] == 224 // 2 ** int(level)
    ]
    assert list(features.shape[1:]) == last, key


def test_ssdlite_finds_slims_layer_15_expansion():
  network = build_with_endpoints(None)
  layer = network.get_layer("expanded_conv_13/expand/activation")
  assert network.output["4/expansion"] is layer.output
  assert network.output_specs["4/expansion"].as_list() == [None, 14, 14, 576]


def test_relu6_follows_what_it_follows_in_slim():
  scopes = [
    layer.name.removesuffix("/activation")
    for layer in layers_of(build(), keras.layers.Activation)
  ]
  assert sorted(scopes) == sorted(ARCH["relu6"])


@pytest.mark.parametrize(("activation", "capped"), [("relu6", True), ("relu", False)])
def test_activation_is_the_configured_one(activation, capped):
  network = MobileNetV2(0.35, activation=activation)
  golden_recipes.assign_logits_weights(network.variables, seed=1)
  features = network(golden_recipes.images(0, 2, 64) * 10)["6"].numpy()
  assert features.min() == 0
  assert features.max() == 6 if capped else features.max() > 6


def test_batch_norm_is_the_configured_one():
  network = MobileNetV2(0.35, use_sync_bn=True, norm_momentum=0.9, norm_epsilon=0.01)
  norms = layers_of(network, keras.layers.BatchNormalization)
  assert len(norms) == 52
  momentum = float(np.float32(0.9))  # as TF1's graph holds it
  settings = {(n.momentum, n.epsilon, n.synchronized) for n in norms}
  assert settings == {(momentum, 0.01, True)}


@pytest.mark.fidelity
def test_weight_decay_covers_the_ordinary_kernels_only(fidelity):
  network = MobileNetV2(0.35, kernel_regularizer=keras.regularizers.l2(0.5))
  kernels = [layer.kernel for layer in convolutions(network)]
  slim = [name for name in ARCH["regularised"] if not name.startswith("Logits/")]
  regularised = [
    layer.name
    for layer in network.layers
    if getattr(layer, "kernel_regularizer", None)
    or getattr(layer, "depthwise_regularizer", None)
  ]
  fidelity(
    "decayed kernels without the logits'",
    len(slim),
    len(regularised),
    len({*slim} ^ {*regularised}),
    "0, the same names",
  )
  assert sorted(regularised) == sorted(slim)
  assert len(network.losses) == len(kernels) == 35
  expected = sum(0.5 * np.square(kernel.numpy()).sum() for kernel in kernels)
  np.testing.assert_allclose(sum(network.losses), expected, rtol=1e-5)


@pytest.mark.fidelity
def test_initial_kernels_are_slims_truncated_normal(fidelity):
  with warnings.catch_warnings():
    # Keras warns of one generator for many kernels.
    warnings.simplefilter("error", UserWarning)
    network = MobileNetV2()
  kernels = [v.numpy() for v in network.trainable_variables if "kernel" in v.name]
  depthwise = [v.numpy() for v in network.variables if "depthwise_kernel" in v.name]
  assert (len(kernels), len(depthwise)) == (52, 17)
  # A normal of 0.09 cut at twice that has this standard deviation (FACTS of slim).
  # Allowed are four standard errors of an estimate from so many values.
  for name, drawn in (("all", kernels), ("depthwise", depthwise)):
    values = np.concatenate([kernel.ravel() for kernel in drawn])
    allowed = 4 * 0.0792 / np.sqrt(2 * values.size)
    fidelity(
      f"standard deviation of the initial kernels, {name}",
      0.0792,
      f"{values.std():.4f}",
      abs(values.std() - 0.0792),
      f"{allowed:.1g}",
    )
    assert values.std() == pytest.approx(0.0792, abs=allowed)
    assert values.mean() == pytest.approx(0, abs=2 * allowed)
    assert np.abs(values).max() <= 0.18
  same_shape = [k for k in kernels if k.shape == (1, 1, 160, 960)]
  assert not np.array_equal(same_shape[0], same_shape[1])


def test_no_biases():
  assert not [v.name for v in build().variables if "bias" in v.name]


def test_config_round_trip_through_json():
  network = MobileNetV2(
    width_multiplier=0.5,
    output_stride=16,
    input_specs=keras.layers.InputSpec(shape=[None, 64, 48, 1]),
    finegrain_classification_mode=False,
    activation="swish",
    use_sync_bn=True,
    norm_momentum=0.9,
    norm_epsilon=0.01,
    kernel_initializer="he_normal",
    kernel_regularizer=keras.regularizers.l2(2e-5),
    output_intermediate_endpoints=True,
    name="eyes",
    trainable=False,
  )
  again = backbone_contract.check_config(network)
  assert again.name == "eyes"
  assert not again.trainable_variables
  assert again.input_shape == (None, 64, 48, 1)
  assert len(again.losses) == 35
  kernel = again.get_layer("Conv").kernel.numpy()
  assert float(again.losses[0]) == pytest.approx(2e-5 * np.square(kernel).sum())


def test_keras_file_keeps_the_network(tmp_path):
  network = MobileNetV2(0.35, kernel_regularizer=keras.regularizers.l2(2e-5))
  network.save(tmp_path / "backbone.keras")
  again = keras.models.load_model(tmp_path / "backbone.keras")
  assert isinstance(again, MobileNetV2)
  assert json.dumps(again.get_config()) == json.dumps(network.get_config())
  image = golden_recipes.images(0, 1, 32)
  np.testing.assert_array_equal(network(image)["6"], again(image)["6"])


@pytest.mark.parametrize("width", [0, -1.0, math.nan, math.inf, "0.35", None])
def test_impossible_width(width):
  with pytest.raises(UserError, match=r"width_multiplier is .*; it must be a number"):
    MobileNetV2(width_multiplier=width)


@pytest.mark.parametrize("output_stride", [0, 4, 7, 64, "16"])
def test_impossible_output_stride(output_stride):
  with pytest.raises(
    UserError, match=r"output_stride is .*; it must be one of 8, 16, 32"
  ):
    MobileNetV2(output_stride=output_stride)


@pytest.mark.parametrize("shape", [[None, 32, 32], [None, 32, 32, None], None])
def test_impossible_input(shape):
  specs = keras.layers.InputSpec(shape=shape) if shape else keras.layers.InputSpec()
  with pytest.raises(UserError, match=r"must be \[batch, height, width, channels\]"):
    MobileNetV2(input_specs=specs)


def test_unknown_activation():
  with pytest.raises(UserError, match="activation is 'relu66', which neither"):
    MobileNetV2(activation="relu66")
