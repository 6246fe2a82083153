"""`dataset.json`: what a prepared data set holds. Imports no TensorFlow."""

import dataclasses
import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_hpu.errors import UserError

FILE_NAME = "dataset.json"


@dataclasses.dataclass(frozen=True)
class SplitInfo:
  """One split.

  Attributes:
    num_examples: records in all of its shards.
    num_shards: files.
    file_pattern: glob of its shards, relative to the data set's folder.
    examples_per_class: records by label; `[num_classes]`, adds up to `num_examples`.
  """

  num_examples: int
  num_shards: int
  file_pattern: str
  examples_per_class: list[int]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """The content of `<data_dir>/dataset.json`.

  Attributes:
    source: name of the source it was prepared from, such as `image_folder`.
    label_names: name of each class; the index is the label.
    num_classes: number of labels, background included where the source has one.
    splits: by name: `train`, `validation`, …
    skipped: `{"file", "reason"}` of each image left out.
    converted: `{"file", "reason"}` of each image that was re-encoded.
    seed: of the split and of the order of the records.
    validation_fraction: share of each class held out; None where the input came
      with its own validation split.
    source_checksum: SHA-256 over the relative path and size in bytes of every input.
    tool_version: version of this package that prepared it.
    significant_bits: Bits that samples of 16 bits use; an export scales by them.
    warnings: What people should know of the images, a line each.
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
  warnings: list[str] = dataclasses.field(default_factory=list)

  @classmethod
  def find(cls, data_dir: str | os.PathLike[str]) -> "DatasetInfo | None":
    """Returns what `load` returns, or None where there is no dataset.json."""
    return cls.load(data_dir) if (Path(data_dir) / FILE_NAME).exists() else None

  @classmethod
  def load(cls, data_dir: str | os.PathLike[str]) -> "DatasetInfo":
    """Reads `<data_dir>/dataset.json`.

    Raises:
      UserError: the file is absent, unreadable, no valid JSON, or a field is missing,
        of the wrong type or at odds with another.
    """
    path = Path(data_dir) / FILE_NAME
    try:
      content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
      raise UserError(
        f"{path} does not exist: {data_dir} is not a prepared data set. "
        "Prepare one with entrypoints/prepare_data.py."
      ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
      raise UserError(
        f"{path} cannot be read: {error}. Prepare the data set again."
      ) from error
    fields = _checked(path, "", content, _DATASET_FIELDS)
    fields["splits"] = {
      name: SplitInfo(**_checked(path, f"splits.{name}.", split, _SPLIT_FIELDS))
      for name, split in fields["splits"].items()
    }
    info = cls(**fields)
    _check_agreement(path, info)
    return info

  def save(self, data_dir: str | os.PathLike[str]) -> Path:
    """Writes `<data_dir>/dataset.json` (aside, then renamed) and returns its path."""
    path = Path(data_dir) / FILE_NAME
    aside = path.with_name(f".{FILE_NAME}.{os.getpid()}")
    text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
    # A file name may hold bytes that are no UTF-8; they are kept as escapes.
    data = (text + "\n").encode("utf-8", errors="backslashreplace")
    aside.write_bytes(data)
    os.replace(aside, path)
    return path


def recorded_examples(files: Sequence[str | os.PathLike[str]]) -> int | None:
  """Returns what dataset.json says of the records in `files`.

  Args:
    files: paths of TFRecords.

  Returns:
    The records of the split that consists of just these files; None where there is no
    dataset.json beside them, or no such split.

  Raises:
    UserError: if dataset.json is damaged.
  """
  folders = {Path(path).parent for path in files}
  info = DatasetInfo.find(folders.pop()) if len(folders) == 1 else None
  names = {Path(path).name for path in files}
  for split in info.splits.values() if info else ():
    matching = fnmatch.filter(names, split.file_pattern)
    if len(matching) == len(names) == split.num_shards:
      return split.num_examples
  return None


_SPLIT_FIELDS: dict[str, tuple[type, ...]] = {
  "num_examples": (int,),
  "num_shards": (int,),
  "file_pattern": (str,),
  "examples_per_class": (list,),
}
_DATASET_FIELDS: dict[str, tuple[type, ...]] = {
  "source": (str,),
  "label_names": (list,),
  "num_classes": (int,),
  "splits": (dict,),
  "skipped": (list,),
  "converted": (list,),
  "seed": (int,),
  "validation_fraction": (float, int, type(None)),
  "source_checksum": (str,),
  "tool_version": (str,),
  "significant_bits": (int,),
  "warnings": (list,),
}
# Of fields that earlier versions did not write.
_DEFAULTS: dict[str, Any] = {"significant_bits": 16, "warnings": []}


def _invalid(path: Path, problem: str) -> UserError:
  return UserError(f"{path}: {problem}. Prepare the data set again.")


def _checked(
  path: Path, prefix: str, content: Any, fields: Mapping[str, tuple[type, ...]]
) -> dict[str, Any]:
  """Returns `content` as a dictionary of just `fields`, each of an allowed type."""
  if not isinstance(content, dict):
    raise _invalid(path, f"{prefix.rstrip('.') or 'the content'} is not an object")
  content = {**{k: v for k, v in _DEFAULTS.items() if k in fields}, **content}
  for name, types in fields.items():
    if name not in content:
      raise _invalid(path, f"field {prefix + name!r} is missing")
    value = content[name]
    if not isinstance(value, types) or isinstance(value, bool):
      allowed = " or ".join(t.__name__ for t in types)
      raise _invalid(path, f"field {prefix + name!r} is {value!r}, not {allowed}")
  # A newer version may write more; what this one reads it reads in full.
  return {name: content[name] for name in fields}


def _check_agreement(path: Path, info: DatasetInfo) -> None:
  if len(info.label_names) != info.num_classes:
    raise _invalid(
      path,
      f"field 'num_classes' is {info.num_classes}, but 'label_names' has "
      f"{len(info.label_names)} names",
    )
  for name, split in info.splits.items():
    per_class = split.examples_per_class
    if len(per_class) != info.num_classes:
      raise _invalid(
        path,
        f"field 'splits.{name}.examples_per_class' has {len(per_class)} entries for "
        f"{info.num_classes} classes",
      )
    if sum(per_class) != split.num_examples:
      raise _invalid(
        path,
        f"field 'splits.{name}.num_examples' is {split.num_examples}, but "
        f"'examples_per_class' adds up to {sum(per_class)}",
      )
