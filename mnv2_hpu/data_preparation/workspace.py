"""The folder a preparation works in: its lock, its plan, the shards finished so far.

`<output_dir>/.prepare/` exists while a preparation is unfinished and holds

    lock           locked (flock) by the process at work, shared by those that write a
                   part each; freed by the system if it dies
    lock-3-of-16   locked by the one that writes this part
    plan.json      what is being prepared; a run continues only what has the same plan
    <shard>.json   report of a finished shard
    <shard>.json.<process>.tmp    a shard being written
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mnv2_hpu import files
from mnv2_hpu.dataloaders import dataset_info
from mnv2_hpu.errors import UserError

_PLAN = "plan.json"


class Part(NamedTuple):
  """Which of how many hosts prepares here, each some of the shards.

  Attributes:
    number: From 1.
    of: Number of hosts.
  """

  number: int
  of: int

  @classmethod
  def parse(cls, text: str) -> "Part | None":
    """Returns the part that `--shard` names, None where it is empty.

    >>> Part.parse("3/16")
    Part(number=3, of=16)

    Raises:
      UserError: If it is not of this form.
    """
    if not text:
      return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})/([1-9][0-9]{0,4})", text)
    part = cls(*map(int, found.groups())) if found else cls(1, 0)
    if part.number > part.of:
      raise UserError(
        f"--shard={text} is no part: allowed are 1/N to N/N, such as 3/16 for the "
        "third of 16 hosts."
      )
    return part


class Workspace:
  """The work folder of `output_dir`, locked by this process. Made by `lock`."""

  def __init__(self, output_dir: Path, part: "Part | None" = None) -> None:
    self.output_dir = output_dir
    self.part = part
    self.folder = output_dir / dataset_info.UNFINISHED
    self._plan_id = ""

  def report_path(self, shard: str) -> Path:
    """Returns the path of a shard's report, which names the plan it was written for."""
    return self.folder / f"{shard}.{self._plan_id}.json"

  def is_finished(self, shard: str) -> bool:
    """Returns whether a shard was finished, by this or an earlier run of this plan."""
    path, report = self.output_dir / shard, self.report_path(shard)
    if not (path.exists() and report.exists()):
      return False
    recorded = json.loads(report.read_text(encoding="utf-8"))["num_bytes"]
    return path.stat().st_size == recorded

  def has_plan(self) -> bool:
    """Returns whether a preparation was begun here and is not finished."""
    return (self.folder / _PLAN).exists()

  def start_or_resume(self, plan: Mapping[str, Any]) -> None:
    """Starts a plan, or resumes it where an earlier run did not finish.

    Args:
      plan: Everything that decides the bytes of the shards; JSON values.

    Raises:
      UserError: If the folder holds the work of another plan, or other files of that
        kind.
    """
    path = self.folder / _PLAN
    encoded = json.dumps(plan, sort_keys=True).encode()
    self._plan_id = hashlib.sha256(encoded).hexdigest()[:12]
    # In this order: another host may begin between the two.
    present = [
      shard
      for split in plan["shards"]
      for shard in sorted(self.output_dir.glob(f"{split}-*-of-*"))
    ]
    if path.exists():
      differing = _differing(json.loads(path.read_text(encoding="utf-8")), plan)
      if differing:
        raise UserError(
          f"{self.output_dir} holds an unfinished preparation that differs in "
          f"{', '.join(differing)}. Run that one again to finish it, choose another "
          "--output_dir, or delete this one."
        )
      if self.part is None:  # else they may be those of another host
        for tmp_path in self.folder.glob(f"*{files.TMP_SUFFIX}"):
          tmp_path.unlink()
      return
    if present:
      raise UserError(
        f"{present[0]} exists already, and is not known to be whole. Choose another "
        "--output_dir, or delete the old shards."
      )
    # Hosts that begin at the same moment all write it, each by a file of its own.
    own = f"{path}.{self.part.number if self.part else 0}{files.TMP_SUFFIX}"
    with files.atomic_path(str(path), own), open(own, "w", encoding="utf-8") as file:
      json.dump(plan, file)

  def finish(self) -> None:
    """Marks the data set as finished, so that this folder is removed."""
    (self.folder / _PLAN).unlink(missing_ok=True)


def is_finished(output_dir: Path, plan: Mapping[str, Any]) -> bool:
  """Returns whether `output_dir` holds just what the plan makes.

  Raises:
    UserError: If it holds another finished data set, or lacks shards of this one.
  """
  info = dataset_info.DatasetInfo.find(output_dir)
  if info is None:
    return False
  present = {
    "source": info.source,
    "seed": info.seed,
    "validation_fraction": info.validation_fraction,
    "source_checksum": info.source_checksum,
    "significant_bits": info.significant_bits,
    "max_side": info.max_side,
    "jpeg_quality": info.jpeg_quality,
    "shards": {name: split.num_shards for name, split in info.splits.items()},
  }
  differing = _differing(present, {key: plan[key] for key in present})
  if differing:
    raise UserError(
      f"{output_dir} holds a data set that differs in {', '.join(differing)}. Choose "
      "another --output_dir, or delete that one."
    )
  for name, split in info.splits.items():
    found = len(list(output_dir.glob(split.file_pattern)))
    if found != split.num_shards:
      raise UserError(
        f"{output_dir} has a dataset.json, but {found} of the {split.num_shards} "
        f"shards of {name}. Delete it, or choose another --output_dir."
      )
  return True


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
  keys = {*one, *other}
  return sorted(key for key in keys if one.get(key) != other.get(key))


@contextlib.contextmanager
def lock(output_dir: Path, part: Part | None = None) -> Iterator[Workspace]:
  """Makes `output_dir` and keeps every other preparation out of it, but other parts.

  Afterwards, the work folder of a preparation that was finished, or never begun, is
  gone; one of parts is left to the preparation that ends them.

  Raises:
    UserError: If it cannot be made, or another process is preparing into it.
  """
  workspace = Workspace(output_dir, part)
  existed = output_dir.exists()
  with contextlib.ExitStack() as stack:
    operation = fcntl.LOCK_SH if part else fcntl.LOCK_EX
    stack.callback(os.close, _lock(workspace.folder, "lock", operation))
    if part:
      name = f"lock-{part.number}-of-{part.of}"
      stack.callback(os.close, _lock(workspace.folder, name, fcntl.LOCK_EX))
    try:
      yield workspace
    finally:
      if not part and not workspace.has_plan():
        shutil.rmtree(workspace.folder)
        if not existed and not any(output_dir.iterdir()):
          output_dir.rmdir()


def _lock(folder: Path, name: str, operation: int) -> int:
  descriptor = None
  while descriptor is None:
    descriptor = _try_lock(folder, name, operation)
  return descriptor


def _try_lock(folder: Path, name: str, operation: int) -> int | None:
  """Returns the locked descriptor; None where the lock's file was just removed."""
  path = folder / name
  try:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise UserError(
      f"{folder.parent} cannot be written to: {error.strerror}."
    ) from error
  try:
    fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(descriptor)
    raise UserError(
      f"another process is preparing data into {folder.parent}. Wait for it to end, or "
      "choose another --output_dir."
    ) from None
  # The holder before may have finished, and removed the file, after it was opened here.
  if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
    return descriptor
  os.close(descriptor)
  return None
