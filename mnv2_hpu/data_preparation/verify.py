"""Re-reads a prepared data set: records, labels, counts, duplicates between splits."""

import dataclasses
import functools
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_hpu import errors, tfrecord
from mnv2_hpu.data_preparation import imagenet, workers
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError

_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_DIGEST_SIZE = 16  # bytes


@dataclasses.dataclass(frozen=True)
class VerificationResult:
  """What was found.

  Attributes:
    data_dir: Folder of the data set.
    label_names: Names of the classes; None without dataset.json.
    examples_per_class: Readable records by label, by split.
    problems: Everything that is wrong, a line each.
    deep: Whether the images were decoded.
    seconds: Seconds that it took.
  """

  data_dir: str
  label_names: list[str] | None
  examples_per_class: dict[str, Counter[int]]
  problems: list[str]
  deep: bool
  seconds: float

  @property
  def ok(self) -> bool:
    """Whether nothing is wrong."""
    return not self.problems

  def summary(self, max_problems: int = 50) -> str:
    """Returns the lines to print: counts, problems, verdict."""
    names, problems = self.label_names, self.problems
    lines = [f"{self.data_dir}:" + (f" {len(names)} classes" if names else "")]
    for split, counts in self.examples_per_class.items():
      few, many = min(counts.values(), default=0), max(counts.values(), default=0)
      lines.append(
        f"  {split:<10} {counts.total():>9,} images of "
        f"{errors.counted(len(counts), 'class')}, "
        f"{few:,} to {many:,} per class"
      )
    lines += [f"  {problem}" for problem in problems[:max_problems]]
    if len(problems) > max_problems:
      lines.append(f"  and {len(problems) - max_problems:,} more")
    verdict = f"{len(problems):,} problems" if problems else "all well"
    depth = "decoded" if self.deep else "read, not decoded (--deep does)"
    return "\n".join(
      [*lines, f"  {verdict}; every record was {depth}; {self.seconds:.1f} s"]
    )


@dataclasses.dataclass
class ShardFindings:
  """What a shard holds.

  Attributes:
    examples_per_class: Readable records by label.
    digests: Digest of each record's encoded image, 16 bytes each, one after the other;
      zeros where there is none.
    problems: What is wrong, a line each.
  """

  examples_per_class: Counter[int] = dataclasses.field(default_factory=Counter)
  digests: bytearray = dataclasses.field(default_factory=bytearray)
  problems: list[str] = dataclasses.field(default_factory=list)

  def images(self) -> Iterator[tuple[int, bytes]]:
    """Yields (position of the record, digest of its encoded image)."""
    for record in range(len(self.digests) // _DIGEST_SIZE):
      digest = bytes(self.digests[record * _DIGEST_SIZE :][:_DIGEST_SIZE])
      if any(digest):
        yield record, digest


def verify(
  data_dir: str,
  deep: bool = False,
  num_processes: int = 0,
  report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> VerificationResult:
  """Reads every record of every shard of a data set.

  Reported are: shards that are missing, empty, truncated or corrupt; records without
  image or label, with a label outside the classes or at odds with the class's name;
  counts that differ from dataset.json, or from ImageNet's where that was prepared; the
  same image in two splits. A data set without dataset.json, such as one that another
  tool wrote, is checked as far as that goes.

  Args:
    data_dir: Folder that holds `<split>-00000-of-00004` and so on, and dataset.json.
    deep: Whether to decode every image, as training does.
    num_processes: Number of processes; 0 chooses: one for few images, otherwise one per
      processor.
    report_progress: Called with (shards done, shards in all).

  Raises:
    UserError: If the folder has no shards, or dataset.json cannot be read.
  """
  start = time.monotonic()
  info = DatasetInfo.find(data_dir)
  by_split = _shards(Path(data_dir))
  label_names = info.label_names if info else None
  paths = [str(path) for shards in by_split.values() for path in shards]
  # Without dataset.json the number of images is not known: taken to be large.
  num_images = sum(s.num_examples for s in info.splits.values()) if info else 10**6
  processes = workers.choose_processes(num_processes, len(paths), num_images)
  report_progress(0, len(paths))
  found: dict[str, ShardFindings] = {}
  check = functools.partial(check_shard, label_names=label_names, deep=deep)
  for path, findings in workers.run(check, paths, processes):
    found[path] = findings
    report_progress(len(found), len(paths))
  problems = list(_missing_shards(by_split, info))
  problems += [problem for path in paths for problem in found[path].problems]
  counts: dict[str, Counter[int]] = {
    split: sum((found[str(path)].examples_per_class for path in shards), Counter())
    for split, shards in by_split.items()
  }
  problems += _count_problems(counts, info)
  problems += _imagenet_problems(counts, info)
  problems += _duplicates(by_split, found)
  return VerificationResult(
    data_dir, label_names, counts, problems, deep, time.monotonic() - start
  )


def check_shard(
  path: str, label_names: Sequence[str] | None, deep: bool
) -> ShardFindings:
  """Reads every record of a shard, checksums included.

  Args:
    path: Path of the shard.
    label_names: Names of the classes; where None, any label from 0 is in range.
    deep: Whether to decode every image.
  """
  found = ShardFindings()
  shard = Path(path).name
  if not Path(path).is_file():  # a pipe would be waited for
    found.problems.append(f"{shard}: no file, or a link that leads to none")
    return found
  for index, record in enumerate(tfrecord.read_records(path)):
    example: Mapping[str, Sequence[Any]] = {}
    problems = [record.problem] if record.problem else []
    if not problems:
      try:
        example = tfrecord.parse_example(record.data)
      except tfrecord.CorruptRecordError as error:
        problems.append(str(error))
      else:
        problems += _label_problems(example, label_names, found.examples_per_class)
        problems += _image_problems(example, deep)
    where = f"{shard}: record {index} at byte {record.offset}"
    found.problems += [f"{where} {problem}" for problem in problems]
    encoded = example.get(tfrecord.IMAGE_KEY, [b""])[0]
    found.digests += (
      hashlib.blake2b(encoded, digest_size=_DIGEST_SIZE).digest()
      if isinstance(encoded, bytes) and encoded
      else bytes(_DIGEST_SIZE)
    )
  if not found.digests:
    found.problems.append(f"{shard}: the shard is empty")
  return found


def _label_problems(
  example: Mapping[str, Sequence[Any]],
  label_names: Sequence[str] | None,
  counts: Counter[int],
) -> Iterator[str]:
  """Yields what is wrong with the label; counts it where nothing is."""
  try:
    label = tfrecord.label_of(
      example, num_classes=None if label_names is None else len(label_names)
    )
  except (tfrecord.CorruptRecordError, tfrecord.LabelError) as error:
    yield str(error)
    return
  counts[label] += 1
  key = tfrecord.SYNSET_KEY if tfrecord.SYNSET_KEY in example else tfrecord.TEXT_KEY
  texts = example.get(key, [])
  if label_names is not None and texts and isinstance(texts[0], bytes):
    text = texts[0].decode("utf-8", errors="backslashreplace")
    if text != label_names[label]:
      yield (
        f"has the label {label}, which is {label_names[label]!r}, but {key} is {text!r}"
      )


def _image_problems(example: Mapping[str, Sequence[Any]], deep: bool) -> Iterator[str]:
  """Yields what is wrong with the image; where deep, decodes it as training does."""
  try:
    encoded = tfrecord.encoded_image(example)
    if not encoded.startswith(_SIGNATURES):
      yield f"holds neither JPEG nor PNG in {tfrecord.IMAGE_KEY}"
    elif deep:
      height, width, _ = tfrecord.decode_image(encoded).shape
      sizes = {tfrecord.HEIGHT_KEY: height, tfrecord.WIDTH_KEY: width}
      for key, actual in sizes.items():
        if (stated := example.get(key, [actual])[0]) != actual:
          yield f"says {stated} in {key}, but the image has {actual}"
  except tfrecord.CorruptRecordError as error:
    yield str(error)


def _shards(data_dir: Path) -> dict[str, list[Path]]:
  """Returns the shards by split, both in sorted order."""
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


def _missing_shards(
  by_split: Mapping[str, list[Path]], info: DatasetInfo | None
) -> Iterator[str]:
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


def _count_problems(
  counts: Mapping[str, Counter[int]], info: DatasetInfo | None
) -> Iterator[str]:
  if info is None:
    return
  for split, counted in counts.items():
    if split not in info.splits:
      yield f"{split}: dataset.json does not know this split"
      continue
    for label, expected in enumerate(info.splits[split].examples_per_class):
      if counted[label] != expected:
        yield (
          f"{split}: {counted[label]:,} records of class {label} "
          f"({info.label_names[label]!r}), but dataset.json says {expected:,}"
        )


def _imagenet_problems(
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


def _duplicates(
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
