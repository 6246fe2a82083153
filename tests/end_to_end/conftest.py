"""Prepared digits."""

import pytest

from mnv2_hpu.data_preparation import digits, prepare


@pytest.fixture(scope="session")
def digits_records(tmp_path_factory):
  """The digits as the quickstart prepares them."""
  folder = tmp_path_factory.mktemp("digits")
  digits.write_digits(str(folder / "images"))
  prepare.prepare(
    prepare.PreparationOptions(
      input_dir=str(folder / "images"), output_dir=str(folder / "tfrecords")
    )
  )
  return folder / "tfrecords"
