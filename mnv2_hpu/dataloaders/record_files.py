"""The TFRecord files of a data set: found by name or pattern, and counted."""

import difflib
import fnmatch
import os
import re
from collections.abc import Sequence

import tensorflow as tf

from mnv2_hpu import errors, paths, tfrecord
from mnv2_hpu.dataloaders import dataset_info

_SHARD_NUMBER = re.compile(r"-\d+-of-\d+$")


def match_files(patterns: str | Sequence[str]) -> list[str]:
  """Finds the files of a data set.

  Args:
    patterns: Paths or glob patterns; a string may hold several, with commas between
      them, as in Model Garden's `input_path`. A folder that exists under just the name
      given is that folder, whatever characters its name holds.

  Returns:
    The paths, each once, ascending: the same list on every machine.

  Raises:
    UserError: If there is no pattern, if one matches nothing, or if a file is empty
      or a directory.
  """
  given = [patterns] if isinstance(patterns, str) else list(patterns)
  parts = [part for entry in given for part in _split(entry)]
  if not parts:
    raise errors.UserError(
      f"No data files were named: received {patterns!r}. Give a path or a pattern "
      "such as data/train-*."
    )
  found: set[str] = set()
  for part in parts:
    matched = _glob(part)
    if not matched:
      raise errors.UserError(f"No data file matches {part!r}. {_what_is_there(part)}")
    found.update(matched)
  files = sorted(found)
  for path in files:
    if tf.io.gfile.isdir(path):
      raise errors.UserError(
        f"{path!r} is a directory, not a data file. {_what_is_there(path + '/*')}"
      )
    if tf.io.gfile.stat(path).length == 0:
      raise errors.UserError(
        f"The data file {path!r} is empty (0 bytes). Write it again, or leave it out."
      )
  return files


def count_examples(files: Sequence[str]) -> int:
  """Returns the records in all files: as dataset.json says, else counted by headers.

  Raises:
    UserError: If there is no dataset.json and a file is truncated or no TFRecord.
  """
  recorded = dataset_info.recorded_split(files)
  return recorded.num_examples if recorded else sum(tfrecord.count_records(files))


def _split(patterns: str) -> list[str]:
  """Splits at commas, but not within the name of a folder that exists."""
  patterns = paths.resolve(patterns, "input_path") if patterns.strip() else ""
  folder, names = os.path.split(patterns)
  in_folder = "," in folder and tf.io.gfile.isdir(folder)
  parts = names.split(",") if in_folder else patterns.split(",")
  return [
    os.path.join(folder, part.strip()) if in_folder else part.strip()
    for part in parts
    if part.strip()
  ]


def _glob(pattern: str) -> list[str]:
  """Returns what matches; only the last part is a pattern where its folder exists."""
  folder, name = os.path.split(pattern)
  if not tf.io.gfile.isdir(folder or "."):
    return tf.io.gfile.glob(pattern)
  entries = [entry.rstrip("/") for entry in tf.io.gfile.listdir(folder or ".")]
  matched = [name] if name in entries else fnmatch.filter(entries, name)
  return [os.path.join(folder, entry) for entry in matched]


def _what_is_there(pattern: str) -> str:
  """Returns a sentence on what the nearest existing directory above a pattern holds."""
  directory, name = os.path.split(pattern)
  while directory and not tf.io.gfile.isdir(directory) and directory != "/":
    directory, name = os.path.split(directory)
  directory = directory or "."
  entries = [entry.rstrip("/") for entry in tf.io.gfile.listdir(directory)]
  # Shards are many and alike: name the pattern that finds them all.
  names = sorted({_SHARD_NUMBER.sub("-*", entry) for entry in entries})
  near = difflib.get_close_matches(_SHARD_NUMBER.sub("-*", name), names)
  what = f" Did you mean {near[0]!r}?" if near else ""
  if names and not near:
    what = f" It holds {errors.shorten(names, 5)}."
  if not os.path.isabs(directory) and "://" not in directory:
    what += f" Relative paths start at the working folder, {os.getcwd()!r}."
  return (
    f"Looked for {name!r} in {directory!r}, which has {len(entries)} entries.{what}"
  )
