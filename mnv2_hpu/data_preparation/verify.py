"""Re-reads a prepared data set: records, labels, counts, duplicates between splits."""

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mnv2_hpu.data_preparation import imagenet, shard_check, workers
from mnv2_hpu.data_preparation.shard_check import CheckTask, Problem, ShardFindings
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo
from mnv2_hpu.errors import UserError

_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})")


@dataclasses.dataclass(frozen=True)
class VerificationResult:
  """What was found.

  Attributes:
    data_dir: the data set's folder.
    label_names: None without dataset.json.
    examples_per_class: readable records by label, by split.
    problems: everything that is wrong.
    deep: whether the images were decoded.
    seconds: that it took.
  """

  data_dir: str
  label_names: list[str] | None
  examples_per_class: dict[str, Counter[int]]
  problems: list[Problem]
  deep: bool
  seconds: float

  @property
  def ok(self) -> bool:
    """Whether nothing is wrong."""
    return not self.problems


def verify(
  data_dir: str,
  deep: bool = False,
  num_processes: int = 0,
  report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> VerificationResult:
  """Reads every record of every shard of a data set.

  Reported are: shards that are missing, empty, truncated or damaged; records without
  image or label, with a label outside the classes or at odds with the class's name;
  counts that differ from dataset.json, or from ImageNet's where that was prepared; the
  same image in two splits. A data set without dataset.json, such as one that another
  tool wrote, is checked as far as that goes.

  Args:
    data_dir: holds `<split>-00000-of-00004` and so on, and dataset.json.
    deep: also decode every image as training does.
    num_processes: 0 chooses: one for few images, otherwise one per processor.
    report_progress: is told (shards done, shards in all).

  Raises:
    UserError: the folder has no shards, or dataset.json cannot be read.
  """
  start = time.monotonic()
  info = DatasetInfo.find(data_dir)
  by_split = _shards(Path(data_dir))
  label_names = info.label_names if info else None
  tasks = [
    CheckTask(str(path), split, label_names, deep)
    for split, paths in by_split.items()
    for path in paths
  ]
  # Without dataset.json the number of images is not known: taken to be large.
  num_images = sum(s.num_examples for s in info.splits.values()) if info else 10**6
  processes = workers.choose_processes(num_processes, len(tasks), num_images)
  report_progress(0, len(tasks))
  found: dict[str, ShardFindings] = {}
  for task, findings in workers.run(shard_check.check_shard, tasks, processes):
    found[task.path] = findings
    report_progress(len(found), len(tasks))
  counts: dict[str, Counter[int]] = {split: Counter() for split in by_split}
  problems = list(_missing_shards(by_split, info))
  for task in tasks:
    counts[task.split] += found[task.path].examples_per_class
    problems += found[task.path].problems
  problems += _count_problems(counts, info)
  problems += _imagenet_problems(counts, info)
  problems += _duplicates(by_split, found)
  return VerificationResult(
    data_dir, label_names, counts, problems, deep, time.monotonic() - start
  )


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
) -> Iterator[Problem]:
  for split, paths in by_split.items():
    found = [match for p in paths if (match := _SHARD_NAME.fullmatch(p.name))]
    counts = {int(match["count"]) for match in found}
    if len(counts) > 1:
      yield Problem(f"{split}: shards of two preparations lie together: {counts}")
      continue
    present = {int(match["index"]) for match in found}
    for index in sorted(set(range(*counts)) - present):
      yield Problem("the shard is missing", f"{split}-{index:05d}-of-{max(counts):05d}")
  for split in info.splits if info else ():
    if split not in by_split:
      yield Problem(f"{split}: all shards are missing")


def _count_problems(
  counts: Mapping[str, Counter[int]], info: DatasetInfo | None
) -> Iterator[Problem]:
  if info is None:
    return
  for split, counted in counts.items():
    if split not in info.splits:
      yield Problem(f"{split}: dataset.json does not know this split")
      continue
    for label, expected in enumerate(info.splits[split].examples_per_class):
      if counted[label] != expected:
        yield Problem(
          f"{split}: {counted[label]:,} records of class {label} "
          f"({info.label_names[label]!r}), but dataset.json says {expected:,}"
        )


def _imagenet_problems(
  counts: Mapping[str, Counter[int]], info: DatasetInfo | None
) -> Iterator[Problem]:
  """Yields where a set that should be ImageNet has other numbers than ImageNet."""
  if info is None or info.source != imagenet.NAME:
    return
  if (classes := info.num_classes - 1) != imagenet.NUM_CLASSES:
    expected = f"{imagenet.NUM_CLASSES:,}"
    yield Problem(
      f"{classes:,} classes besides the background; ImageNet has {expected}"
    )
  for split, expected_count in imagenet.NUM_EXAMPLES.items():
    count = counts.get(split, Counter()).total()
    if count != expected_count:
      yield Problem(f"{split}: {count:,} images; ImageNet has {expected_count:,}")


def _duplicates(
  by_split: Mapping[str, list[Path]], found: Mapping[str, ShardFindings]
) -> Iterator[Problem]:
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
          text = f"record {record} is the same image as record {position} of {other}"
          yield Problem(text, path.name)
        if split != last:
          here.setdefault(digest, (path.name, record))
    met = {**here, **met}


def summary(result: VerificationResult, most_problems: int = 50) -> str:
  """Returns the lines to print: counts, problems, verdict."""
  names = result.label_names
  lines = [f"{result.data_dir}:" + (f" {len(names)} classes" if names else "")]
  for split, counts in result.examples_per_class.items():
    few, many = min(counts.values(), default=0), max(counts.values(), default=0)
    lines.append(
      f"  {split:<10} {sum(counts.values()):>9,} images of {len(counts)} classes, "
      f"{few:,} to {many:,} per class"
    )
  lines += [f"  {problem}" for problem in result.problems[:most_problems]]
  if len(result.problems) > most_problems:
    lines.append(f"  and {len(result.problems) - most_problems:,} more")
  verdict = f"{len(result.problems):,} problems" if result.problems else "all well"
  depth = "decoded" if result.deep else "read, not decoded (--deep does)"
  lines.append(f"  {verdict}; every record was {depth}; {result.seconds:.1f} s")
  return "\n".join(lines)
