"""Milliseconds per image of exported models: ours, Model Garden's, Keras Applications'.

The models take turns (`turns`): one process, and ONNX Runtime, which runs our ONNX, and
PyTorch's eager network in one of their own (`peers`). SavedModels, ONNX Runtime and
PyTorch use all cores, TFLite one, and ONNX Runtime beside it. Each model gets images of
the network's input size; the exported ones scale them themselves. Weights are as
initialized: speed does not depend on them.

  python benchmarks/exported_models.py --image_size=224 --rounds=9
"""

import functools
import tempfile
import time

from mnv2_hpu import tf_environment

tf_environment.configure()

import numpy as np
import peers
import tensorflow as tf
import turns
from absl import app, flags
from official.core import exp_factory
from official.vision.serving import export_saved_model_lib

import mnv2_hpu
from mnv2_hpu import compat
from mnv2_hpu.compat import keras

_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Height and width, in pixels.")
_ROUNDS = flags.DEFINE_integer(
  "rounds", 9, "Times that every model is measured.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images of the larger batch.")
_RUNS = flags.DEFINE_integer("runs", 10, "Images of one measurement.")

CLASSES = 1001


def _images(count):
  """Returns uint8 images `[count, 1, size, size, 3]`."""
  size = _IMAGE_SIZE.value
  return np.random.default_rng(0).integers(0, 256, (count, 1, size, size, 3), np.uint8)


def _ours(folder, with_onnx):
  """Exports our network; returns the folder of its models."""
  from official.core import config_definitions as cfg
  from official.core import task_factory

  from mnv2_hpu.configs import image_classification as exp_cfg
  from mnv2_hpu.serving import export, tflite

  task = exp_cfg.ImageClassificationTask()
  task.model.num_classes = CLASSES
  task.model.input_size = [_IMAGE_SIZE.value, _IMAGE_SIZE.value, 3]
  params = cfg.ExperimentConfig(task=task)
  model = task_factory.get_task(task).build_model()
  checkpoint = tf.train.Checkpoint(model=model).write(f"{folder}/ckpt")
  images = [tf.io.encode_png(image[0]).numpy() for image in _images(20)]
  export.export(
    params,
    checkpoint,
    f"{folder}/ours",
    weights="raw",
    formats=["saved_model", "tflite", "tflite_int8", *(["onnx"] if with_onnx else [])],
    quantization=tflite.Quantization(images, "uint8"),
  )
  return f"{folder}/ours"


def _stock(folder):
  """Exports Model Garden's MobileNetV2 by its own exporter; returns the SavedModel."""
  params = exp_factory.get_exp_config("mobilenet_imagenet")
  params.task.model.input_size = [_IMAGE_SIZE.value, _IMAGE_SIZE.value, 3]
  params.task.model.num_classes = CLASSES
  from official.core import task_factory

  model = task_factory.get_task(params.task).build_model()
  checkpoint = tf.train.Checkpoint(model=model).save(f"{folder}/stock/ckpt")
  export_saved_model_lib.export_inference_graph(
    input_type="image_tensor",
    batch_size=1,
    input_image_size=[_IMAGE_SIZE.value] * 2,
    params=params,
    checkpoint_path=checkpoint,
    export_dir=f"{folder}/stock/model",
  )
  return f"{folder}/stock/model"


def _convert(function, model, int8):
  holder = tf.Module()
  holder.all_weights = list(model.variables)
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [function.get_concrete_function()], holder
  )
  if int8:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
      [image.astype(np.float32)] for image in _images(20)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
  return converter.convert()


def _keras(folder):
  """Writes Keras Applications' network in the same forms; returns their folder."""
  size = _IMAGE_SIZE.value
  model = keras.applications.MobileNetV2((size, size, 3), weights=None, classes=CLASSES)

  def serve(images):
    return {"probs": model(tf.cast(images, tf.float32) / 127.5 - 1.0, training=False)}

  @tf.function(input_signature=[tf.TensorSpec([1, size, size, 3], tf.float32)])
  def pixels(images):
    return {"probs": model(images / 127.5 - 1.0, training=False)}

  holder = tf.Module()
  holder.all_weights = list(model.variables)
  for count, path in ((1, "keras"), (_BATCH_SIZE.value, f"keras_{_BATCH_SIZE.value}")):
    spec = tf.TensorSpec([count, size, size, 3], tf.uint8)
    signature = tf.function(serve).get_concrete_function(spec)
    tf.saved_model.save(holder, f"{folder}/{path}", signatures=signature)
  for name, int8 in (("model", False), ("model_int8", True)):
    with open(f"{folder}/keras/{name}.tflite", "wb") as file:
      file.write(_convert(pixels, model, int8))
  return f"{folder}/keras"


def _saved_model(path):
  loaded = tf.saved_model.load(path)
  return lambda images: loaded.signatures["serving_default"](tf.constant(images))


def _tflite(path, batch=1):
  # One thread: those of several interpreters would wait for each other by spinning.
  interpreter = compat.tflite_interpreter(path, 1)
  (given,) = interpreter.get_input_details()
  size = _IMAGE_SIZE.value
  interpreter.resize_tensor_input(given["index"], [batch, size, size, 3])
  interpreter.allocate_tensors()

  def run(images):
    interpreter.set_tensor(given["index"], images.astype(given["dtype"]))
    interpreter.invoke()

  return run


def _milliseconds(run, batches):
  start = time.perf_counter()
  for images in batches:
    run(images)
  return 1000 * (time.perf_counter() - start) / sum(map(len, batches))


def _measures(ours, stock, keras_dir):
  """Returns what measures each model, at each batch size that it takes."""
  many = _BATCH_SIZE.value
  one = [*_images(_RUNS.value)]
  models = {
    "SavedModel": {
      "mnv2_hpu": _saved_model(f"{ours}/saved_model"),
      "Model Garden": _saved_model(stock),
      "Keras Applications": _saved_model(keras_dir),
    },
    "TFLite": {
      "mnv2_hpu": _tflite(f"{ours}/model.tflite"),
      "mnv2_hpu, int8": _tflite(f"{ours}/model_int8.tflite"),
      "Keras Applications": _tflite(f"{keras_dir}/model.tflite"),
    },
    "TFLite int8": {
      "mnv2_hpu": _tflite(f"{ours}/model_int8.tflite"),
      "Keras Applications": _tflite(f"{keras_dir}/model_int8.tflite"),
    },
  }
  measures = {
    (f"{kind}, batch 1", name): functools.partial(_milliseconds, run, one)
    for kind, by_name in models.items()
    for name, run in by_name.items()
  }
  batch = [np.concatenate([*_images(many)])]
  for kind, path in (("SavedModel", "saved_model"), ("TFLite", "model.tflite")):
    load = (
      _saved_model if kind == "SavedModel" else functools.partial(_tflite, batch=many)
    )
    peer = f"{keras_dir}_{many}" if kind == "SavedModel" else f"{keras_dir}/{path}"
    for name, of in (("mnv2_hpu", f"{ours}/{path}"), ("Keras Applications", peer)):
      case = (f"{kind}, batch {many}", name)
      measures[case] = functools.partial(_milliseconds, load(of), batch)
  return measures


def _peer_milliseconds(seconds, images):
  return 1000 * seconds() / images


def _peer_measures(peer, path):
  """Returns what measures ONNX Runtime on a file, and PyTorch."""
  measures = {}
  all_cores, size = peers.num_threads(), _IMAGE_SIZE.value
  for count, calls in ((1, _RUNS.value), (_BATCH_SIZE.value, 1)):
    for kind, threads in (("SavedModel", all_cores), ("TFLite", 1)):
      seconds = peer.seconds("ONNX", calls, path, threads, count, size)
      name = "mnv2_hpu's ONNX, ONNX Runtime"
      measures[f"{kind}, batch {count}", name] = functools.partial(
        _peer_milliseconds, seconds, count
      )
    seconds = peer.seconds("inference", calls, count, size)
    measures[f"SavedModel, batch {count}", "PyTorch, eager"] = functools.partial(
      _peer_milliseconds, seconds, count
    )
  return measures


def main(argv):
  """Exports, measures, prints a table and keeps it."""
  del argv
  mnv2_hpu.register()
  with tempfile.TemporaryDirectory() as folder, peers.Peers() as peer:
    ours = _ours(folder, with_onnx=bool(peer))
    measures = _measures(ours, _stock(folder), _keras(folder))
    if peer:
      measures |= _peer_measures(peer, f"{ours}/model.onnx")
    # The cases of one kind, ours first, follow each other.
    kinds = [kind for kind, _ in measures]
    measures = dict(sorted(measures.items(), key=lambda case: kinds.index(case[0][0])))
    values = turns.take_turns(measures, _ROUNDS.value)
  size = _IMAGE_SIZE.value
  turns.publish(
    "exported_models",
    f"Exported models: width 1.0, {size} px, {CLASSES} classes, "
    f"{peers.num_threads()} threads, TFLite and ONNX Runtime beside it 1",
    "ms an image",
    values,
    more_is_better=False,
    peer_versions=peer.versions,
  )


if __name__ == "__main__":
  app.run(main)
