"""Lists what a source offers, with its indices read into memory."""

import dataclasses
import tempfile

from mnv2_hpu.data_preparation import sources
from mnv2_hpu.data_preparation.listing import SourceOptions


def listed(source, input_dir, **options):
  """The listing of a source; its splits are lists of `SourceImage`."""
  with tempfile.TemporaryDirectory() as index_dir:
    listing = sources.list_source(
      source, SourceOptions(str(input_dir), index_dir, **options)
    )
    splits = {
      split: index.images(range(len(index))) for split, index in listing.splits.items()
    }
    return dataclasses.replace(listing, splits=splits)
