"""How often the input opens a file: on a file server each time costs a round trip."""

import collections
import contextlib
import ctypes
import os
import struct

import pytest
import tensorflow as tf
from helpers_record_files import write_files

from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.dataloaders import classification_input

IN_OPEN = 0x20  # linux/inotify.h
EVENT = struct.Struct("iIII")
SIZES = [8, 8, 8, 8]
EPOCH = sum(SIZES) // 4  # steps


@contextlib.contextmanager
def _opened_in(folder):
  """Yields how often each file in the folder was opened, counted at the end."""
  libc = ctypes.CDLL(None, use_errno=True)
  watch = libc.inotify_init1(os.O_NONBLOCK)
  assert libc.inotify_add_watch(watch, os.fsencode(folder), IN_OPEN) >= 0
  counts = collections.Counter()
  yield counts
  events = os.read(watch, 1 << 20)
  os.close(watch)
  while events:
    *_, length = EVENT.unpack_from(events)
    name = events[EVENT.size : EVENT.size + length].rstrip(b"\0").decode()
    if name:  # the folder itself has none
      counts[name] += 1
    events = events[EVENT.size + length :]


def _read(folder, steps, context=None, **overrides):
  data = DataConfig(
    input_path=f"{folder}/train-*",
    global_batch_size=4,
    is_training=True,
    seed=3,
    prefetch_buffer_size=1,
    **overrides,
  )
  context = context or tf.distribute.InputContext()
  dataset = classification_input.build_dataset(data, (8, 8), 100, context)
  with _opened_in(folder) as counts:
    assert len(list(dataset.take(steps))) == steps
  return counts


@pytest.fixture
def folder(tmp_path):
  write_files(tmp_path, SIZES)
  return tmp_path


def test_training_opens_each_file_once_an_epoch(folder):
  counts = _read(folder, 3 * EPOCH)
  assert len(counts) == len(SIZES)
  # What is read ahead may belong to the next epoch.
  assert set(counts.values()) <= {3, 4}


def test_cached_records_are_read_from_files_that_are_opened_once(folder):
  counts = _read(folder, 3 * EPOCH, cache=True)
  assert set(counts.values()) == {1}
  assert len(counts) == len(SIZES)


def test_a_pipeline_opens_its_own_files_alone(folder):
  opened = [
    set(_read(folder, 1, tf.distribute.InputContext(2, pipeline, 2), cache=True))
    for pipeline in range(2)
  ]
  assert [len(names) for names in opened] == [2, 2]
  assert not opened[0] & opened[1]
