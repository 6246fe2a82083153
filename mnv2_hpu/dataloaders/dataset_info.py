"""`dataset.json`: what a prepared data set holds. Imports no TensorFlow."""

import dataclasses
import fnmatch
import json
import os
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnv2_hpu import files
from mnv2_hpu.errors import UserError

FILE_NAME = "dataset.json"
UNFINISHED = ".prepare"  # folder in that of the data, until dataset.json is written
FINISH = (
  "its preparation has not ended: give mnv2-prepare-data the same command again, "
  "without --shard once all parts are there"
)

# What a split counts by label, for each task: a field of `SplitInfo`.
COUNTS_OF_TASK = {
  "classification": "examples_per_class",
  "detection": "boxes_per_class",
  "segmentation": "pixels_per_class",
}


@dataclasses.dataclass(frozen=True)
class SplitInfo:
  """One split.

  Attributes:
    num_examples: Records in all of its shards.
    num_shards: Files of the split.
    file_pattern: Glob of its shards, relative to the data set's folder.
    examples_per_class: Records by label; `[num_classes]`, adds up to `num_examples`.
      Of classification; empty for other tasks, as are the next two for theirs.
    boxes_per_class: Boxes by label, crowds included; `[num_classes]`.
    pixels_per_class: Pixels by label, without ignored ones; `[num_classes]`.
  """

  num_examples: int
  num_shards: int
  file_pattern: str
  examples_per_class: list[int] = dataclasses.field(default_factory=list)
  boxes_per_class: list[int] = dataclasses.field(default_factory=list)
  pixels_per_class: list[int] = dataclasses.field(default_factory=list)

  def counts(self, task: str) -> list[int]:
    """Returns what a task counts, by label."""
    return getattr(self, COUNTS_OF_TASK[task])


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """The content of `<data_dir>/dataset.json`.

  Attributes:
    source: Name of the source it was prepared from, such as `image_folder`.
    label_names: Name of each class; the index is the label.
    num_classes: Number of labels, background included where the source has one.
    splits: Splits by name: `train`, `validation`, …
    skipped: `{"file", "reason"}` of each image left out.
    converted: `{"file", "reason"}` of each image that was re-encoded.
    seed: Seed of the split and of the order of the records.
    validation_fraction: Fraction of each class held out; None where the input came
      with its own validation split.
    source_checksum: SHA-256 over the relative path and size in bytes of every input.
    tool_version: Version of this package that prepared it.
    significant_bits: Bits that samples of 16 bits use; an export scales by them.
    max_side: Pixels of the longer side to which larger images were scaled down; 0
      where they were stored as they are.
    jpeg_quality: Quality of the JPEGs scaled down; 0 is the default of preparation.
    warnings: What people should know of the images, a line each.
    task: `classification`, `detection` or `segmentation`.
    category_ids: The source's own id of each label, `[num_classes]`: a detector's
      results are written with them. Empty where labels have no other id; 0 for the
      background.
  """

  source: str
  label_names: list[str]
  num_classes: int
  splits: dict[str, SplitInfo]
  skipped: list[dict[str, str]]
  converted: list[dict[str, str]]
  seed: int
  validation_fraction: float | None
  source_checksum: str
  tool_version: str
  significant_bits: int = 16
  max_side: int = 0
  jpeg_quality: int = 0
  warnings: list[str] = dataclasses.field(default_factory=list)
  task: str = "classification"
  category_ids: list[int] = dataclasses.field(default_factory=list)

  def check_task(self, task: str, data_dir: str) -> None:
    """Refuses a data set that was prepared for another task.

    Args:
      task: A key of `COUNTS_OF_TASK`.
      data_dir: Folder of the data set, for the message.

    Raises:
      UserError: Naming both tasks.
    """
    if self.task != task:
      raise UserError(
        f"{data_dir!r} was prepared for {self.task} (--source={self.source}), but this "
        f"experiment trains {task}. Use another experiment, or prepare {task} data."
      )

  @classmethod
  def find(cls, data_dir: str | os.PathLike[str]) -> "DatasetInfo | None":
    """Returns what `load` returns, or None where there is no dataset.json."""
    return cls.load(data_dir) if os.path.lexists(Path(data_dir) / FILE_NAME) else None

  @classmethod
  def load(cls, data_dir: str | os.PathLike[str]) -> "DatasetInfo":
    """Reads `<data_dir>/dataset.json`.

    Raises:
      UserError: If the file is absent, cannot be read, is no valid JSON, or if a field
        is missing, of the wrong type or at odds with another.
    """
    path = Path(data_dir) / FILE_NAME
    if os.path.lexists(path) and not path.is_file():  # a pipe would be waited for
      raise UserError(
        f"{path} is no file, or a link that leads to none. Prepare the data set again."
      )
    try:
      content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
      raise UserError(
        f"{path} does not exist: {data_dir} is not a prepared data set. "
        "Prepare one with entrypoints/prepare_data.py."
      ) from None
    except (OSError, ValueError, RecursionError) as error:
      raise UserError(
        f"{path} cannot be read: {error}. Prepare the data set again."
      ) from error
    fields = _checked(path, "", content, cls)
    fields["splits"] = {
      name: SplitInfo(**_checked(path, f"splits.{name}.", split, SplitInfo))
      for name, split in fields["splits"].items()
    }
    info = cls(**fields)
    _check_agreement(path, info)
    return info

  def save(self, data_dir: str | os.PathLike[str]) -> Path:
    """Writes `<data_dir>/dataset.json` atomically and returns its path."""
    path = Path(data_dir) / FILE_NAME
    content = dataclasses.asdict(self)
    for split in content["splits"].values():
      for name in COUNTS_OF_TASK.values():
        if name != COUNTS_OF_TASK[self.task]:
          del split[name]
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # A file name may hold bytes that are not UTF-8; they are kept as escapes.
    with files.atomic_write(path, "wb") as file:
      file.write((text + "\n").encode(errors="backslashreplace"))
    return path


def recorded_split(paths: Sequence[str | os.PathLike[str]]) -> SplitInfo | None:
  """Returns what dataset.json says of some TFRecord files.

  Returns:
    The split that consists of just these files; None where there is no dataset.json
    beside them, or no such split.

  Raises:
    UserError: If dataset.json is corrupt.
  """
  folders = {Path(path).parent for path in paths}
  info = DatasetInfo.find(folders.pop()) if len(folders) == 1 else None
  names = {Path(path).name for path in paths}
  for split in info.splits.values() if info else ():
    matching = fnmatch.filter(names, split.file_pattern)
    if len(matching) == len(names) == split.num_shards:
      return split
  return None


# Fields that earlier versions did not write, or other tasks do not: they have defaults.
_OPTIONAL_FIELDS = {
  "significant_bits",
  "max_side",
  "jpeg_quality",
  "warnings",
  "task",
  "category_ids",
  *COUNTS_OF_TASK.values(),
}


def _invalid(path: Path, problem: str) -> UserError:
  return UserError(f"{path}: {problem}. Prepare the data set again.")


def _checked(path: Path, prefix: str, content: Any, kind: type) -> dict[str, Any]:
  """Returns a JSON object's values for the fields of a dataclass, of their types."""
  if not isinstance(content, dict):
    raise _invalid(path, f"{prefix.rstrip('.') or 'the content'} is not an object")
  hints = typing.get_type_hints(kind)
  for name, hint in hints.items():
    if name not in content and name in _OPTIONAL_FIELDS:
      continue
    if name not in content:
      raise _invalid(path, f"field {prefix + name!r} is missing")
    value, allowed = content[name], _json_types(hint)
    if not isinstance(value, allowed) or isinstance(value, bool):
      names = " or ".join(t.__name__ for t in allowed)
      raise _invalid(path, f"field {prefix + name!r} is {value!r}, not {names}")
    if problem := _wrong_item(value, hint):
      raise _invalid(path, f"field {prefix + name!r} holds {problem}")
  # A newer version may write more; what this one reads it reads in full.
  return {name: content[name] for name in hints if name in content}


def _wrong_item(value: Any, hint: Any) -> str:
  """Returns the first item of a list that is no number, or no name; else `""`."""
  item_type = next(iter(typing.get_args(hint)), None)
  if not isinstance(value, list) or item_type not in (int, str):
    return ""
  wrong = [item for item in value if type(item) is not item_type]
  return f"{wrong[0]!r}, not {item_type.__name__}" if wrong else ""


def _json_types(hint: Any) -> tuple[type, ...]:
  """Returns the types that JSON gives for a field's annotation."""
  kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  plain = tuple(typing.get_origin(kind) or kind for kind in kinds)
  return (*plain, int) if float in plain else plain


def _check_agreement(path: Path, info: DatasetInfo) -> None:
  if not 8 <= info.significant_bits <= 16:
    raise _invalid(
      path, f"field 'significant_bits' is {info.significant_bits}, not 8 to 16"
    )
  if len(info.label_names) != info.num_classes:
    raise _invalid(
      path,
      f"field 'num_classes' is {info.num_classes}, but 'label_names' has "
      f"{len(info.label_names)} names",
    )
  if info.task not in COUNTS_OF_TASK:
    allowed = ", ".join(COUNTS_OF_TASK)
    raise _invalid(path, f"field 'task' is {info.task!r}; known are {allowed}")
  if info.category_ids and len(info.category_ids) != info.num_classes:
    raise _invalid(
      path,
      f"field 'category_ids' has {len(info.category_ids)} entries for "
      f"{info.num_classes} classes",
    )
  for name, split in info.splits.items():
    _check_split(path, name, split, info)


def _check_split(path: Path, name: str, split: SplitInfo, info: DatasetInfo) -> None:
  counted = COUNTS_OF_TASK[info.task]
  field, per_class = f"field 'splits.{name}.{counted}'", split.counts(info.task)
  if not per_class:
    raise _invalid(path, f"{field} is missing or empty")
  if min(per_class) < 0:
    raise _invalid(path, f"{field} holds {min(per_class)}, a negative number")
  if len(per_class) != info.num_classes:
    raise _invalid(
      path,
      f"{field} has {len(per_class)} entries for {info.num_classes} classes",
    )
  if info.task == "classification" and sum(per_class) != split.num_examples:
    raise _invalid(
      path,
      f"field 'splits.{name}.num_examples' is {split.num_examples}, but {counted!r} "
      f"adds up to {sum(per_class)}",
    )
