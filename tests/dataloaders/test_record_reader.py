"""Which pipeline reads which record, over records that are only numbers."""

import itertools
import logging

import pytest
import tensorflow as tf

from mnv2_hpu.dataloaders import record_reader

RECORDS_PER_FILE = 6


@pytest.fixture(name="files")
def fixture_files(tmp_path):
  files = [str(tmp_path / f"train-{i:02d}") for i in range(17)]
  for number, path in enumerate(files):
    with tf.io.TFRecordWriter(path) as writer:
      for i in range(RECORDS_PER_FILE):
        writer.write(str(number * RECORDS_PER_FILE + i))
  return files


def _read(files, pipelines, pipeline, count, seed=0, **options):
  dataset = record_reader.training_records(
    files,
    tf.distribute.InputContext(pipelines, pipeline, pipelines),
    seed=seed,
    shuffle_buffer_size=8,
    **options,
  )
  return [int(record) for _, record in dataset.take(count).as_numpy_iterator()]


@pytest.mark.parametrize(
  ("num_files", "pipelines"), [(1, 1), (1, 3), (4, 4), (5, 3), (6, 2), (8, 3), (9, 1)]
)
def test_an_epoch_is_shared_out_evenly(files, num_files, pipelines):
  total = num_files * RECORDS_PER_FILE
  epochs = []
  for pipeline in range(pipelines):
    share = len(range(pipeline, total, pipelines))
    records = _read(files[:num_files], pipelines, pipeline, 2 * share)
    epochs.append((records[:share], records[share:]))
  for epoch in zip(*epochs, strict=True):
    assert sorted(itertools.chain(*epoch)) == list(range(total))


def test_many_files_are_shared_though_they_do_not_divide(files):
  """17 files for 2 pipelines: 9 and 8, each read by one of them only."""
  first = _read(files, 2, 0, 9 * RECORDS_PER_FILE)
  second = _read(files, 2, 1, 8 * RECORDS_PER_FILE)
  assert sorted(first + second) == list(range(17 * RECORDS_PER_FILE))
  owners = [{record // RECORDS_PER_FILE for record in part} for part in (first, second)]
  assert not owners[0] & owners[1]


def test_every_epoch_gives_a_pipeline_other_files(files):
  records = _read(files[:4], 2, 0, 8 * 2 * RECORDS_PER_FILE)
  assert {record // RECORDS_PER_FILE for record in records} == {0, 1, 2, 3}
  kept = _read(files[:4], 2, 0, 8 * 2 * RECORDS_PER_FILE, cache=True)
  assert len({record // RECORDS_PER_FILE for record in kept}) == 2


def test_too_few_files_are_logged(files, caplog):
  caplog.set_level(logging.INFO, logger="absl")
  _read(files[:3], 2, 0, 1)
  assert "3 data files are not enough" in caplog.text
  assert "one record in 2" in caplog.text


def test_faster_reading_loses_nothing(files):
  records = _read(files, 1, 0, 17 * RECORDS_PER_FILE, deterministic=False)
  assert sorted(records) == list(range(17 * RECORDS_PER_FILE))


def test_evaluation_reads_in_the_order_of_the_files(files):
  def read(pipeline):
    context = tf.distribute.InputContext(2, pipeline, 2)
    dataset = record_reader.evaluation_records(files[:3], context, cycle_length=1)
    return [int(record) for _, record in dataset.as_numpy_iterator()]

  assert (read(0), read(1)) == (list(range(0, 18, 2)), list(range(1, 18, 2)))
