"""Images per second of the preparation, against another method and plain copying.

JPEGs of ImageNet's sizes and bytes are made here (photographs.py). The methods take
turns round by round (A B C A B C …), so a machine that slows down slows all; the files
are in the page cache. What is measured, on all cores unless it says otherwise:

- this project, from a folder and from ImageNet's archives (worker processes are
  started again; the server that they fork from, which imports TensorFlow once, was
  started in the first round, which does not count);
- the method of the public `preprocess_imagenet.py` scripts (Habana's and the TPU
  models'): one thread decodes every image in a session to learn its size;
- `cp -r` of the same bytes: the folder, a file an image; the archives, two files.

Then memory of all processes together at 10,000 and 100,000 small images.

  python benchmarks/preparation.py --images=10000 --rounds=5
"""

import contextlib
import io
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import photographs
import tensorflow as tf
from absl import app, flags

from mnv2_hpu.data_preparation import prepare

_IMAGES = flags.DEFINE_integer("images", 10000, "JPEGs to prepare.")
_ROUNDS = flags.DEFINE_integer(
  "rounds", 5, "Times that every method is measured.", lower_bound=1
)
_SLOW_IMAGES = flags.DEFINE_integer("slow_images", 300, "JPEGs for the one thread.")
_MEMORY = flags.DEFINE_list("memory", ["10000", "100000"], "Small images; or nothing.")
_WORK_DIR = flags.DEFINE_string("work_dir", None, "Where to write; else a temporary.")
_PREPARE = flags.DEFINE_string("prepare", None, "Used by the benchmark itself.")

CLASSES = 10
PEERS = ("decoding in a session", "cp -r, folder", "cp -r, archives")
DISTINCT = 60  # images drawn; the files repeat them
SYNSETS = [f"n{number:08d}" for number in range(1, CLASSES + 1)]


def _write_inputs(root):
  """Writes the images twice: as a folder, and as ImageNet's two archives."""
  rng = np.random.default_rng(0)
  drawn = photographs.draw(rng, DISTINCT)
  folder, archives = root / "folder", root / "archives"
  archives.mkdir(parents=True)
  with tarfile.open(archives / "ILSVRC2012_img_train.tar", "w") as outer:
    for label, synset in enumerate(SYNSETS):
      (folder / "train" / synset).mkdir(parents=True)
      buffer = io.BytesIO()
      with tarfile.open(fileobj=buffer, mode="w") as inner:
        for index in range(label, _IMAGES.value, CLASSES):
          name, data = f"{synset}_{index}.JPEG", drawn[index % DISTINCT]
          (folder / "train" / synset / name).write_bytes(data)
          _add(inner, name, data)
      _add(outer, f"{synset}.tar", buffer.getvalue())
  names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, CLASSES + 1)]
  with tarfile.open(archives / "ILSVRC2012_img_val.tar", "w") as outer:
    for synset, name in zip(SYNSETS, names, strict=True):
      (folder / "val" / synset).mkdir(parents=True)
      (folder / "val" / synset / name).write_bytes(drawn[0])
      _add(outer, name, drawn[0])
  labels = "\n".join(SYNSETS)
  (archives / "imagenet_2012_validation_synset_labels.txt").write_text(labels)
  return folder, archives


def _add(archive, name, data):
  member = tarfile.TarInfo(name)
  member.size = len(data)
  archive.addfile(member, io.BytesIO(data))


def _prepare(source, input_dir, output_dir):
  options = prepare.PreparationOptions(
    str(input_dir),
    str(output_dir),
    source,
    num_processes=len(os.sched_getaffinity(0)),
    num_train_shards=16,
  )
  result = prepare.prepare(options)
  return sum(split.num_examples for split in result.info.splits.values())


def _decode_in_a_session(folder, output_dir):
  """Works as the public scripts do: read, decode in a session, example, write."""
  output_dir.mkdir()
  paths = sorted(folder.glob("train/*/*"))
  paths = random.Random(0).sample(paths, min(_SLOW_IMAGES.value, len(paths)))
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    encoded = tf.compat.v1.placeholder(tf.string)
    decode = tf.image.decode_jpeg(encoded, channels=3)
    with tf.io.TFRecordWriter(str(output_dir / "train-00000-of-00001")) as writer:
      for path in paths:
        data = path.read_bytes()
        height, width, _ = session.run(decode, {encoded: data}).shape
        writer.write(_example(path, data, height, width).SerializeToString())
  return len(paths)


def _example(path, data, height, width):
  def number(value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

  def text(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

  values = {
    "image/height": number(height),
    "image/width": number(width),
    "image/colorspace": text(b"RGB"),
    "image/channels": number(3),
    "image/class/label": number(1 + SYNSETS.index(path.parent.name)),
    "image/class/synset": text(path.parent.name.encode()),
    "image/format": text(b"JPEG"),
    "image/filename": text(path.name.encode()),
    "image/encoded": text(data),
  }
  return tf.train.Example(features=tf.train.Features(feature=values))


def _copy(input_dir, output_dir):
  subprocess.run(["cp", "-r", str(input_dir), str(output_dir)], check=True)
  return _IMAGES.value + CLASSES


def _measure(root):
  """Returns images/s by method, a list over the rounds."""
  folder, archives = _write_inputs(root)
  methods = {
    "a folder": lambda out: _prepare("image_folder", folder, out),
    "ImageNet's archives": lambda out: _prepare("imagenet", archives, out),
    "decoding in a session": lambda out: _decode_in_a_session(folder, out),
    "cp -r, folder": lambda out: _copy(folder, out),
    "cp -r, archives": lambda out: _copy(archives, out),
  }
  size = sum(path.stat().st_size for path in folder.glob("*/*/*"))
  print(f"{_IMAGES.value} images, {size / _IMAGES.value / 1e3:.0f} kB each on average")
  rates = {method: [] for method in methods}
  for round_number in range(_ROUNDS.value + 1):
    for method, run in methods.items():
      output_dir = root / "out"
      os.sync()  # what the one before has still to write is not this one's work
      start = time.perf_counter()
      count = run(output_dir)
      seconds = time.perf_counter() - start
      shutil.rmtree(output_dir)
      if round_number:
        rates[method].append(count / seconds)
      else:
        print(f"  first round, {method}: {seconds:.1f} s")
  return rates


def _processes(root_id):
  """Yields a process and all below it."""
  yield root_id
  with contextlib.suppress(OSError):
    for task in Path(f"/proc/{root_id}/task").iterdir():
      for child in (task / "children").read_text().split():
        yield from _processes(int(child))


def _memory(process_id):
  """Returns MiB of a process and all below it, shared pages counted once."""
  total = 0
  for number in _processes(process_id):
    with contextlib.suppress(OSError):
      for line in Path(f"/proc/{number}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
          total += int(line.split()[1])
  return total / 1024


def _peak_memory(root, num_images):
  """Prepares small images in a process of its own; returns (MiB, seconds)."""
  rng = np.random.default_rng(0)
  folder = root / f"small{num_images}"
  data = photographs.jpeg(rng, 30, 40)
  for index in range(num_images):
    path = folder / f"{index % 100:03d}" / f"{index:06d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  start = time.perf_counter()
  command = [sys.executable, __file__, f"--prepare={folder}"]
  peak = 0.0
  with subprocess.Popen(command) as process:
    ended = threading.Event()
    threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True).start()
    while not ended.wait(0.1):
      peak = max(peak, _memory(process.pid))
  if process.returncode:
    raise RuntimeError(f"preparing {num_images} images failed: {process.returncode}")
  seconds = time.perf_counter() - start
  shutil.rmtree(folder)
  return peak, seconds


def main(argv):
  """Measures and prints a table."""
  del argv
  if _PREPARE.value:
    _prepare("image_folder", _PREPARE.value, f"{_PREPARE.value}.out")
    shutil.rmtree(f"{_PREPARE.value}.out")
    return
  with tempfile.TemporaryDirectory(dir=_WORK_DIR.value) as work:
    rates = _measure(Path(work) / "speed")
    cores = len(os.sched_getaffinity(0))
    print(
      f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, "
      f"TensorFlow {tf.__version__}; images/s, median of {_ROUNDS.value}"
    )
    for method, values in rates.items():
      line = f"  {method:<22} {statistics.median(values):8,.0f}"
      for peer in PEERS:
        ratios = [a / b for a, b in zip(values, rates[peer], strict=True)]
        low, high = min(ratios), max(ratios)
        line += f"  / {peer}: {statistics.median(ratios):.2f} ({low:.2f}-{high:.2f})"
      print(line)
    for count in map(int, _MEMORY.value):
      peak, seconds = _peak_memory(Path(work), count)
      print(f"  {count:,} small images: {peak:.0f} MiB at most, {seconds:.0f} s")


if __name__ == "__main__":
  app.run(main)
