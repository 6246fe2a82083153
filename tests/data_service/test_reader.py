"""What two workers of a data service read, and what is lost with one of them."""

import logging
import re

import helpers_data_service
import numpy as np
import pytest
import tensorflow as tf
from helpers_record_files import write_files

from mnv2_hpu import cluster, error_reports
from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.data_service import client, reader
from mnv2_hpu.dataloaders import classification_input

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory):
  """A dispatcher and two workers on loopback."""
  (port,) = cluster.free_ports(1)
  work_dir = tmp_path_factory.mktemp("work")
  with helpers_data_service.running(port, 2, f"--work_dir={work_dir}") as started:
    yield started


def _build(pattern, service, context=None, start_step=0, **overrides):
  data = DataConfig(
    **{
      "input_path": pattern,
      "global_batch_size": 16,
      "is_training": True,
      "shuffle_buffer_size": 5,
      "deterministic": False,
      "service_address": service.address,
      **overrides,
    }
  )
  return classification_input.build_dataset(
    data, (8, 8), 1000, context, start_step=start_step
  )


def _labels(dataset, num_batches):
  batches = dataset.take(num_batches).as_numpy_iterator()
  return np.concatenate([labels for _, labels in batches])


def test_each_record_comes_once_an_epoch(tmp_path, service):
  dataset = _build(write_files(tmp_path, [20] * 4), service)

  labels = _labels(dataset, 15).reshape(3, 80)  # three epochs of 80 records

  assert dataset.element_spec[0].shape == (16, 8, 8, 3)
  np.testing.assert_array_equal(np.sort(labels), [np.arange(80)] * 3)
  assert not np.array_equal(labels[0], labels[1])


@pytest.mark.parametrize("sizes", [[12] * 4, [20, 21, 7]], ids=["files", "records"])
def test_ranks_read_different_records_that_are_all(tmp_path, service, sizes):
  pattern = write_files(tmp_path, sizes)
  contexts = [tf.distribute.InputContext(2, rank, 2) for rank in range(2)]
  epochs = [
    _labels(_build(pattern, service, context, global_batch_size=8), 6)
    for context in contexts
  ]

  found = np.sort(np.concatenate(epochs))
  np.testing.assert_array_equal(found, np.arange(48))


def test_an_epoch_that_was_begun_is_read_again_from_its_start(
  tmp_path, service, caplog
):
  caplog.set_level(logging.INFO, logger="absl")
  # Of 80 records in batches of 16, seven batches are an epoch and 32 records.
  resumed = _build(write_files(tmp_path, [20] * 4), service, start_step=7)

  np.testing.assert_array_equal(np.sort(_labels(resumed, 5)), np.arange(80))
  assert "epoch 1 (the first is 0) from its start, of which an earlier" in caplog.text
  assert "has read 32 records" in caplog.text


def test_what_is_done_to_an_image_follows_from_the_seed(tmp_path, service):
  """However its batch was put together."""
  pattern = write_files(tmp_path, [8, 8])

  def images(seed):
    dataset = _build(pattern, service, global_batch_size=8, seed=seed)
    batches = list(dataset.take(2).as_numpy_iterator())
    order = np.argsort(np.concatenate([labels for _, labels in batches]))
    return np.concatenate([images for images, _ in batches])[order]

  np.testing.assert_array_equal(images(1), images(1))
  assert not np.array_equal(images(1), images(2))


def test_a_corrupt_record_is_left_out_and_named_by_the_trainer(
  tmp_path, service, caplog
):
  pattern = write_files(tmp_path, [8, 8])
  path = tmp_path / "train-00001-of-00002"
  records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
  with tf.io.TFRecordWriter(str(path)) as writer:
    for index, record in enumerate(records):
      writer.write(b"no example" if index == 3 else record)

  labels = _labels(_build(pattern, service, global_batch_size=5), 3)

  np.testing.assert_array_equal(np.sort(labels), np.delete(np.arange(16), 11))
  assert "Left out: corrupt record 1 of at most 100" in caplog.text
  assert str(path) in caplog.text


def test_a_file_that_workers_do_not_have_ends_the_training_in_one_line(
  tmp_path, service
):
  dataset = _build(write_files(tmp_path, [8, 8]), service)
  for path in tmp_path.iterdir():
    path.unlink()

  with pytest.raises(tf.errors.OpError) as error:
    _labels(dataset, 1)

  said = error_reports.explain(error.value)
  assert re.fullmatch(
    rf"a worker of the data service cannot read '{tmp_path}/\S+'\. Mount .+", said
  )


def test_a_dispatcher_that_is_started_again_goes_on(tmp_path, service):
  dataset = _build(write_files(tmp_path, [10] * 40), service)
  batches = dataset.as_numpy_iterator()
  labels = [next(batches)[1] for _ in range(5)]

  service.dispatcher.kill()
  service.dispatcher.wait()
  service.dispatcher.stdout.close()
  service.dispatcher = service.start_dispatcher()
  helpers_data_service.wait_until_up(service.dispatcher)
  labels += [next(batches)[1] for _ in range(45)]

  found = np.sort(np.concatenate(labels).reshape(2, 400))
  np.testing.assert_array_equal(found, [np.arange(400)] * 2)


def test_a_killed_worker_takes_records_with_it_and_none_comes_twice(
  tmp_path, service, monkeypatch, caplog
):
  monkeypatch.setattr(reader, "_LOST_SECONDS", 4.0)
  dataset = _build(write_files(tmp_path, [10] * 40), service, global_batch_size=4)
  batches = dataset.as_numpy_iterator()
  labels = [next(batches)[1] for _ in range(20)]

  service.workers[0].kill()
  service.workers[0].wait()
  service.workers.append(service.start_worker())
  helpers_data_service.wait_until_up(service.workers[-1])
  while "goes without" not in caplog.text:
    labels.append(next(batches)[1])

  lost = int(re.search(r"goes without (\d+) of its 400 records", caplog.text)[1])
  epoch = np.concatenate(labels)[: (400 - lost) // 4 * 4]
  assert 0 < lost < 400
  assert len(set(epoch)) == len(epoch)
  # The next epoch is whole again, though the lost worker never comes back.
  following = np.concatenate([next(batches)[1] for _ in range(100)])
  assert len(set(following)) >= 400 - 4
  client.check(DataConfig(service_address=service.address))


def test_sigterm_ends_what_a_trainer_reads_from(tmp_path, service):
  batches = _build(write_files(tmp_path, [10] * 40), service).as_numpy_iterator()
  next(batches)

  for process in (service.workers[1], service.dispatcher):
    process.terminate()
    assert process.wait(timeout=30) == 0
