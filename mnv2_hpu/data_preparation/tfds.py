"""Source `tfds`: any classification set of TensorFlow Datasets.

`--tfds_name=cifar10` (or `name/config:version`) is downloaded and prepared by TFDS into
`--input_dir`, its data folder, unless it lies there already. Its TFRecords are then
read in place, image by image. Labels are those of TFDS, from 0, without a background
class. The validation split is the set's `validation` (or `val`, `valid`), else its
`test`, else a stratified fraction of what is trained on.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from mnv2_hpu import tfrecord
from mnv2_hpu.data_preparation import images, listing, shards
from mnv2_hpu.data_preparation.input_files import InputReader
from mnv2_hpu.data_preparation.listing import (
  Checksum,
  Listing,
  SourceImage,
  SourceOptions,
)
from mnv2_hpu.errors import UserError, did_you_mean

NAME = "tfds"
_VALIDATION_NAMES = ("validation", "val", "valid", "test")


def list_tfds(options: SourceOptions) -> Listing:
  """Lists the images of a set, after TFDS has prepared it where that is not done.

  Raises:
    UserError: TFDS does not know the set, or cannot download or prepare it; or it is no
      classification set.
  """
  listing.check_fraction(options.validation_fraction)
  builder = _prepared_builder(options)
  image_key, label_key = _feature_keys(builder)
  names = builder.info.features[label_key].names
  chosen = _chosen_splits(builder, options)
  checksum = Checksum()
  skipped: list[dict[str, str]] = []
  listed: dict[str, list[SourceImage]] = {split: [] for split in chosen}
  for split, tfds_split in chosen.items():
    for image in _labelled_records(builder, tfds_split, label_key, options, checksum):
      if 0 <= image.label < len(names):
        listed[split].append(image)
      else:
        skipped.append({"file": image.path, "reason": f"its label is {image.label}"})
  held_out = None if "validation" in chosen else options.validation_fraction
  if held_out:
    listed = _hold_out(listed["train"], names, options)
  return Listing(
    source=NAME,
    label_names=names,
    splits={split: images for split, images in listed.items() if images},
    read=_ImageReader(options.input_dir, image_key),
    serialize=shards.serialize,
    validation_fraction=held_out,
    checksum=checksum.hexdigest(),
    skipped=skipped,
  )


class _ImageReader(InputReader):
  """Reads the encoded image of a TFDS record."""

  def __init__(self, input_dir: str, image_key: str) -> None:
    super().__init__(input_dir)
    self._image_key = image_key

  def __call__(self, image: SourceImage) -> bytes:
    """Returns the bytes of an image.

    Raises:
      OSError: they cannot be read.
      BadImageError: the record holds none.
    """
    try:
      example = tfrecord.parse_example(super().__call__(image))
      return tfrecord.encoded_image(example, self._image_key)
    except tfrecord.CorruptRecordError as error:
      raise images.BadImageError(f"its record {error}") from error


def _prepared_builder(options: SourceOptions) -> Any:
  """Returns TFDS's builder of the set, downloaded and prepared."""
  import tensorflow_datasets as tfds

  name = options.tfds_name
  if not name:
    raise UserError("--source=tfds needs --tfds_name, such as --tfds_name=cifar10.")
  try:
    builder = tfds.builder(name, data_dir=options.input_dir)
  except tfds.core.DatasetNotFoundError as error:
    base = name.partition("/")[0].partition(":")[0]
    hint = did_you_mean(base, tfds.list_builders(with_community_datasets=False))
    raise UserError(f"--tfds_name={name} is not known to TFDS. {hint}") from error
  except (ValueError, AssertionError) as error:  # a configuration or version unknown
    raise UserError(f"--tfds_name={name}: {error}") from error
  try:
    builder.download_and_prepare()
  except (
    OSError,  # requests' errors among them
    AssertionError,  # files that have to be downloaded by hand
    tfds.download.DownloadError,
  ) as error:
    raise UserError(
      f"TFDS cannot download or prepare {name} in {options.input_dir}: {error} Fix "
      "that, or bring a prepared set: what TFDS wrote on another machine can be copied "
      "there."
    ) from error
  return builder


def _feature_keys(builder: Any) -> tuple[str, str]:
  """Returns the names of the image and of the label."""
  import tensorflow_datasets as tfds

  features = builder.info.features
  kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
  named = builder.info.supervised_keys
  if not named or len(named) != 2 or not all(isinstance(key, str) for key in named):
    named = tuple(
      found[0] if len(found) == 1 else ""
      for kind in kinds.values()
      for found in [[k for k, f in features.items() if type(f) is kind]]
    )
  for key, (role, kind) in zip(named, kinds.items(), strict=True):
    if key not in features or not isinstance(features[key], kind):
      raise UserError(
        f"--tfds_name={builder.name} is no classification set: it has no single {role} "
        f"among its features {', '.join(features)}. Choose another set."
      )
  image_key, label_key = named
  if np.issubdtype(features[image_key].np_dtype, np.floating):
    raise UserError(
      f"--tfds_name={builder.name} has images of real numbers, which neither JPEG nor "
      "8-bit PNG can hold. Choose another set."
    )
  return image_key, label_key


def _chosen_splits(builder: Any, options: SourceOptions) -> dict[str, str]:
  """Returns the set's split by ours."""
  present = list(builder.info.splits)
  if options.tfds_train_split not in present:
    raise UserError(
      f"{options.tfds_name} has no split {options.tfds_train_split!r} to train on: "
      f"--tfds_train_split may be one of {', '.join(present)}."
    )
  chosen = {"train": options.tfds_train_split}
  for name in _VALIDATION_NAMES:
    if name in present and name != options.tfds_train_split:
      return {**chosen, "validation": name}
  return chosen


def _labelled_records(
  builder: Any, split: str, label_key: str, options: SourceOptions, checksum: Checksum
) -> Iterator[SourceImage]:
  """Yields where each record of a split lies, with its label (-1 without one)."""
  for path in map(os.fspath, builder.info.splits[split].filepaths):
    archive = os.path.relpath(path, options.input_dir)
    checksum.add(archive, os.path.getsize(path))
    for number, record in enumerate(tfrecord.read_records(path)):
      try:
        if record.problem:
          raise tfrecord.CorruptRecordError(record.problem)
        label = tfrecord.parse_example(record.data).get(label_key, [-1])[0]
      except tfrecord.CorruptRecordError as error:
        raise UserError(
          f"{path}: record {number} at byte {record.offset} {error}. Delete its "
          "folder, and run the same command again."
        ) from error
      name = f"{os.path.basename(path)}:{number}"
      start = record.offset + tfrecord.HEADER_BYTES
      yield SourceImage(name, label, archive, start, len(record.data))


def _hold_out(
  listed: list[SourceImage], names: list[str], options: SourceOptions
) -> dict[str, list[SourceImage]]:
  """Divides the images into two splits, stratified, each in the order they came in."""
  by_class: dict[str, list[int]] = {name: [] for name in names}
  for position, image in enumerate(listed):
    by_class[names[image.label]].append(position)
  divided = listing.stratified(by_class, options.validation_fraction, options.seed)
  return {
    split: [listed[i] for i in sorted(itertools.chain(*positions.values()))]
    for split, positions in zip(("train", "validation"), divided, strict=True)
  }
