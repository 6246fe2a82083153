"""Checks of a whole data set: shards, counts, what lies in two splits."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mnv2_hpu import detection_record
from mnv2_hpu.data_preparation import imagenet
from mnv2_hpu.data_preparation.verify.shard import ShardFindings
from mnv2_hpu.dataloaders import dataset_info
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError

_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})")


def shards(data_dir: Path) -> dict[str, list[Path]]:
  """Returns the shards by split, both in sorted order.

  Raises:
    UserError: There are none.
  """
  if not data_dir.is_dir():
    raise UserError(f"--data_dir={data_dir} is not a folder.")
  by_split: dict[str, list[Path]] = {}
  for path in sorted(data_dir.iterdir()):
    if match := _SHARD_NAME.fullmatch(path.name):
      by_split.setdefault(match["split"], []).append(path)
  if not by_split:
    raise UserError(
      f"--data_dir={data_dir} has no shards, named like train-00000-of-00004. Prepare "
      "them with entrypoints/prepare_data.py."
    )
  return by_split


def missing_shards(
  by_split: Mapping[str, list[Path]], info: DatasetInfo | None
) -> Iterator[str]:
  """Yields which shards, or splits of dataset.json, there are none of."""
  for split, paths in by_split.items():
    found = [match for p in paths if (match := _SHARD_NAME.fullmatch(p.name))]
    counts = {int(match["count"]) for match in found}
    if len(counts) > 1:
      yield f"{split}: shards of two preparations lie together: {counts}"
      continue
    present = {int(match["index"]) for match in found}
    for index in sorted(set(range(*counts)) - present):
      yield f"{split}-{index:05d}-of-{max(counts):05d}: the shard is missing"
  for split in info.splits if info else ():
    if split not in by_split:
      yield f"{split}: all shards are missing"


def unfinished(data_dir: Path) -> Iterator[str]:
  """Yields that a preparation has not ended, if so."""
  if (data_dir / dataset_info.UNFINISHED).is_dir():
    yield dataset_info.FINISH


def count_problems(
  counts: Mapping[str, Counter[int]],
  num_images: Mapping[str, int],
  info: DatasetInfo | None,
) -> Iterator[str]:
  """Yields where a split has other numbers than dataset.json says.

  Args:
    counts: Examples, boxes or pixels by label, by split.
    num_images: Images by split.
    info: Content of dataset.json, if there is one.
  """
  if info is None:
    return
  counted_of = {"classification": "records", "detection": "boxes"}
  what = counted_of.get(info.task, "pixels")
  for split, counted in counts.items():
    if split not in info.splits:
      yield f"{split}: dataset.json does not know this split"
      continue
    stated = info.splits[split]
    # Of classification, the labels below say it, and which class lacks one.
    if info.task != "classification" and num_images[split] != stated.num_examples:
      yield (
        f"{split}: {num_images[split]:,} images, but dataset.json says "
        f"{stated.num_examples:,}"
      )
    for label, expected in enumerate(stated.counts(info.task)):
      if counted[label] != expected:
        yield (
          f"{split}: {counted[label]:,} {what} of class {label} "
          f"({info.label_names[label]!r}), but dataset.json says {expected:,}"
        )


def repeated_ids(
  by_split: Mapping[str, list[Path]], found: Mapping[str, ShardFindings]
) -> Iterator[str]:
  """Yields the numbers that two images of a split have: evaluation would mix them."""
  for split, paths in by_split.items():
    ids = Counter(i for path in paths for i in found[str(path)].source_ids)
    repeated = [identity for identity, number in ids.items() if number > 1]
    if repeated:
      yield (
        f"{split}: {len(repeated):,} numbers in {detection_record.SOURCE_ID_KEY} are "
        f"those of two images or more, such as {repeated[0].decode(errors='replace')}"
      )


def imagenet_problems(
  counts: Mapping[str, Counter[int]], info: DatasetInfo | None
) -> Iterator[str]:
  """Yields where a set that should be ImageNet has other numbers than ImageNet."""
  if info is None or info.source != imagenet.NAME:
    return
  if (classes := info.num_classes - 1) != imagenet.NUM_CLASSES:
    expected = f"{imagenet.NUM_CLASSES:,}"
    yield f"{classes:,} classes besides the background; ImageNet has {expected}"
  for split, expected_count in imagenet.NUM_EXAMPLES.items():
    count = counts.get(split, Counter()).total()
    if count != expected_count:
      yield f"{split}: {count:,} images; ImageNet has {expected_count:,}"


def duplicates(
  by_split: Mapping[str, list[Path]], found: Mapping[str, ShardFindings]
) -> Iterator[str]:
  """Yields each image that lies in two splits, where it is met the second time.

  The largest split comes last and is not remembered: memory is that of the others.
  """

  def size(split: str) -> int:
    return sum(len(found[str(path)].digests) for path in by_split[split])

  met: dict[bytes, tuple[str, int]] = {}
  *_, last = order = sorted(by_split, key=size)
  for split in order:
    here: dict[bytes, tuple[str, int]] = {}
    for path in by_split[split]:
      for record, digest in found[str(path)].images():
        if digest in met:
          other, position = met[digest]
          yield (
            f"{path.name}: record {record} is the same image as record {position} of "
            f"{other}"
          )
        if split != last:
          here.setdefault(digest, (path.name, record))
    met = {**here, **met}
