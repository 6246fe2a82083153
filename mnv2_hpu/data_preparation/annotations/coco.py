"""Source `coco`: images with boxes in COCO's JSON, as most tools export them.

    input_dir/annotations/instances_train2017.json    or    annotations_trainval2017.zip
    input_dir/annotations/instances_val2017.json
    input_dir/train2017/…    or    train2017.zip
    input_dir/val2017/…      or    val2017.zip

or the same without the year; or `train/_annotations.coco.json` and `valid/…` with the
images beside them; or one JSON file, of whose images a fraction is held out. Zip files
are read in place, never unpacked. Labels are 1 to the number of categories, in the
order of the category ids, and 0 is the background.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mnv2_hpu.data_preparation import listing
from mnv2_hpu.data_preparation.annotations import (
  boxes,
  categories,
  coco_files,
)
from mnv2_hpu.data_preparation.annotations.formats import coco_json
from mnv2_hpu.data_preparation.annotations.image_files import ImageFiles
from mnv2_hpu.data_preparation.input_files import InputFolder, InputReader
from mnv2_hpu.data_preparation.listing import (
  Checksum,
  Listing,
  SourceImage,
  SourceOptions,
)
from mnv2_hpu.errors import UserError

NAME = "coco"
_MAX_ID = 2**53 - 1  # those that a 64-bit float holds exactly, as evaluation's may


def list_coco(options: SourceOptions) -> Listing:
  """Lists the images and their boxes; opens no image.

  Raises:
    UserError: The annotation files are missing, ambiguous or not as they should be, the
      splits differ in their categories, or no image is where it could be.
  """
  listing.check_fraction(options.validation_fraction)
  folder = InputFolder(options.input_dir, coco_files.LAYOUT)
  files = coco_files.find(folder)
  read = {split: coco_json.read(file.name, file.open) for split, file in files.items()}
  names = _common_categories(files, read)
  numbered = categories.number(names, options.keep_category_ids)
  checksum, warnings = Checksum(), []
  checksum.add_content(repr(numbered).encode())
  images: dict[str, list[SourceImage]] = {}
  dropped: dict[str, tuple[int, str]] = {}
  for split, content in read.items():
    file = files[split]
    labels = numbered.labels[np.searchsorted(sorted(names), sorted(content.categories))]
    content.objects["label"] = labels[content.objects["label"]]
    checksum.add_content(content.objects.tobytes() + content.bounds.tobytes())
    images[split] = list(_annotated(folder, split, file, content, checksum))
    for reason, count in content.dropped.items():
      dropped[reason] = dropped.get(reason, (0, ""))[0] + count, file.path
    warnings += [f"{file.path}: {n:,} {kind}" for kind, n in content.remarks.items()]
    warnings += _warn_of_ids(file, content)
    if not images[split]:
      raise UserError(
        f"{folder.root} has none of the images that {file.name} lists, such as "
        f"{content.images[0].name!r}. Complete the input."
      )
  held_out = None if "validation" in images else options.validation_fraction
  if held_out:
    images = listing.hold_out(images["train"], held_out, options.seed)
  return Listing(
    source=NAME,
    label_names=numbered.label_names,
    splits={split: listed for split, listed in images.items() if listed},
    read=InputReader(options.input_dir),
    serialize=boxes.BoxSerializer(numbered.label_names),
    validation_fraction=held_out,
    checksum=checksum.hexdigest(),
    skipped=folder.skipped,
    warnings=[*warnings, *folder.warnings()],
    task=boxes.TASK,
    category_ids=numbered.category_ids,
    dropped=dropped,
  )


def _common_categories(
  files: Mapping[str, coco_files.AnnotationFile],
  read: Mapping[str, coco_json.CocoFile],
) -> dict[int, str]:
  """Returns the training split's categories, which another may not contradict."""
  train = read["train"].categories
  for split, content in read.items():
    for identity, name in content.categories.items():
      if train.get(identity) != name:
        known = f"calls {train[identity]!r}" if identity in train else "lacks"
        raise UserError(
          f"{files[split].name} has the category {identity}, {name!r}, which "
          f"{files['train'].name} {known}. Give both the same categories."
        )
  return train


def _annotated(
  folder: InputFolder,
  split: str,
  file: coco_files.AnnotationFile,
  content: coco_json.CocoFile,
  checksum: Checksum,
) -> Iterator[SourceImage]:
  """Yields the images of a split that are there, with their boxes."""
  names = [image.name for image in content.images]
  folders, archives = file.places(split)
  found = ImageFiles.locate(folder, folders, archives, names, file.name)
  given = _are_numbers(content)
  for index, image in enumerate(content.images):
    source = found.find(image.name)
    if source is None:
      folder.skip(image.name, f"listed in {file.path}, but not in the input")
      continue
    checksum.add(source.path, source.size)
    start, end = content.bounds[index : index + 2]
    source_id: Any = image.id if given else index + 1
    yield source._replace(
      annotation=boxes.ImageBoxes(source_id, content.objects[start:end], image.size)
    )


def _are_numbers(content: coco_json.CocoFile) -> bool:
  """Returns whether the ids are such as evaluation reads."""
  return all(type(i.id) is int and 0 <= i.id <= _MAX_ID for i in content.images)


def _warn_of_ids(
  file: coco_files.AnnotationFile, content: coco_json.CocoFile
) -> list[str]:
  if _are_numbers(content):
    return []
  return [
    f"{file.path}: image ids such as {content.images[0].id!r} are no numbers that "
    "evaluation can read; images are numbered from 1 in their place"
  ]
