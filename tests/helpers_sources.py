"""Lists what a source offers."""

from mnv2_hpu.data_preparation import prepare
from mnv2_hpu.data_preparation.listing import SourceOptions


def listed(source, input_dir, **options):
  """The listing of a source."""
  return prepare.list_source(source, SourceOptions(str(input_dir), **options))
