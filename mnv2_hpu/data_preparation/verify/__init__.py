"""Re-reads a prepared data set: records, labels, counts, duplicates between splits."""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mnv2_hpu.data_preparation import workers
from mnv2_hpu.data_preparation.verify import data_set
from mnv2_hpu.data_preparation.verify.shard import ShardFindings, check_shard
from mnv2_hpu.dataloaders.dataset_info import DatasetInfo

_COUNTED = {"classification": "", "detection": "boxes ", "segmentation": "pixels "}


@dataclasses.dataclass(frozen=True)
class VerificationResult:
  """What was found.

  Attributes:
    data_dir: Folder of the data set.
    label_names: Names of the classes; None without dataset.json.
    task: `classification`, `detection` or `segmentation`.
    num_images: Readable images by split.
    counts: Examples, boxes or pixels of readable records by label, by split.
    problems: Everything that is wrong, a line each.
    deep: Whether the images were decoded.
    seconds: Seconds that it took.
  """

  data_dir: str
  label_names: list[str] | None
  task: str
  num_images: dict[str, int]
  counts: dict[str, Counter[int]]
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
    for split, counts in self.counts.items():
      few, many = min(counts.values(), default=0), max(counts.values(), default=0)
      lines.append(
        f"  {split:<10} {self.num_images[split]:>9,} images of {len(counts)} classes, "
        f"{few:,} to {many:,} {_COUNTED[self.task]}per class"
      )
    lines += [f"  {problem}" for problem in problems[:max_problems]]
    if len(problems) > max_problems:
      lines.append(f"  and {len(problems) - max_problems:,} more")
    verdict = f"{len(problems):,} problems" if problems else "all well"
    depth = "decoded" if self.deep else "read, not decoded (--deep does)"
    return "\n".join(
      [*lines, f"  {verdict}; every record was {depth}; {self.seconds:.1f} s"]
    )


def verify(
  data_dir: str,
  deep: bool = False,
  num_processes: int = 0,
  report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> VerificationResult:
  """Reads every record of every shard of a data set.

  Reported are: shards that are missing, empty, truncated or corrupt; records without
  image or label, with a label outside the classes or at odds with the class's name,
  with a box that is none, or with a mask that does not fit its image; counts that
  differ from dataset.json, or from ImageNet's where that was prepared; the same image
  in two splits; two images with one number. A data set without dataset.json, such as
  one that another tool wrote, is checked as far as that goes. Masks are always decoded.

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
  by_split = data_set.shards(Path(data_dir))
  task = info.task if info else ""
  label_names = info.label_names if info else None
  paths = [str(path) for shards in by_split.values() for path in shards]
  # Without dataset.json the number of images is not known: taken to be large.
  num_images = sum(s.num_examples for s in info.splits.values()) if info else 10**6
  processes = workers.choose_processes(num_processes, len(paths), num_images)
  report_progress(0, len(paths))
  found: dict[str, ShardFindings] = {}
  check = functools.partial(check_shard, label_names=label_names, deep=deep, task=task)
  for path, findings in workers.run(check, paths, processes):
    found[path] = findings
    report_progress(len(found), len(paths))
  problems = [
    *data_set.unfinished(Path(data_dir)),
    *data_set.missing_shards(by_split, info),
  ]
  problems += [problem for path in paths for problem in found[path].problems]
  counts: dict[str, Counter[int]] = {
    split: sum((found[str(path)].counts for path in shards), Counter())
    for split, shards in by_split.items()
  }
  images = {
    split: sum(found[str(path)].num_images for path in shards)
    for split, shards in by_split.items()
  }
  problems += data_set.count_problems(counts, images, info)
  problems += data_set.imagenet_problems(counts, info)
  problems += data_set.repeated_ids(by_split, found)
  problems += data_set.duplicates(by_split, found)
  return VerificationResult(
    data_dir=data_dir,
    label_names=label_names,
    task=task or "classification",
    num_images=images,
    counts=counts,
    problems=problems,
    deep=deep,
    seconds=time.monotonic() - start,
  )
