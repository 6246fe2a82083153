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
    UserError: If the source is unknown, or its input is not as it should be.
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
  return SOURCES[source](options)


def used_labels(source: str, num_classes: int) -> range:
  """Returns the labels that images can have: all but ImageNet's background.

  >>> used_labels("image_folder", 3), used_labels("imagenet", 3)
  (range(0, 3), range(1, 3))
  """
  return range(1 if source == imagenet.NAME else 0, num_classes)
