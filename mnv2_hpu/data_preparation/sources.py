"""The sources that data can be prepared from, by name. A new one is one more row."""

from collections.abc import Callable

from mnv2_hpu.data_preparation import image_folder, imagenet, tfds
from mnv2_hpu.data_preparation.listing import Listing, SourceOptions
from mnv2_hpu.errors import UserError, did_you_mean

SOURCES: dict[str, Callable[[SourceOptions], Listing]] = {
  image_folder.NAME: image_folder.list_image_folder,
  imagenet.NAME: imagenet.list_imagenet,
  tfds.NAME: tfds.list_tfds,
}


def list_source(source: str, options: SourceOptions) -> Listing:
  """Lists what a source offers.

  Raises:
    UserError: the source is unknown, or its input is not as it should be.
  """
  if source not in SOURCES:
    raise UserError(
      f"--source={source} is not a source. {did_you_mean(source, SOURCES)}"
    )
  if options.tfds_name and source != tfds.NAME:
    raise UserError(
      f"--tfds_name={options.tfds_name} belongs to --source={tfds.NAME}, but "
      f"--source={source} is given."
    )
  try:
    return SOURCES[source](options)
  except OSError as error:
    raise UserError(
      f"--source={source} with --input_dir={options.input_dir} cannot be listed: "
      f"{error}. Fix the input, then run the same command again."
    ) from error
