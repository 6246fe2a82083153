"""Where the gin and YAML files are: in a checkout, and in an installed wheel."""

import functools
from pathlib import Path

import gin

import mnv2_hpu
from mnv2_hpu.errors import UserError, did_you_mean

PATTERNS = ("*.gin", "*.yaml")


@functools.cache
def folder() -> Path:
  """Returns the folder: beside the package in a checkout, inside it in a wheel."""
  package = Path(mnv2_hpu.__file__).parent
  inside = package / "gin"
  return inside if inside.is_dir() else package.parent / "gin"


def names() -> list[str]:
  """Returns the names of all shipped files, relative to `folder()`, sorted."""
  found = (file for pattern in PATTERNS for file in folder().rglob(pattern))
  return sorted(file.relative_to(folder()).as_posix() for file in found)


def path(name: str) -> str:
  """Returns the path of a shipped file.

  Args:
    name: such as `imagenet.gin`, `gin/imagenet.gin` or `swap/retinanet.yaml`.

  Raises:
    UserError: if no shipped file has this name.
  """
  relative = name.removeprefix("gin/")
  if relative not in names():
    raise UserError(
      f"{name!r} is none of the files that mnv2_hpu ships in {folder()}. "
      f"{did_you_mean(relative, names())}"
    )
  return str(folder() / relative)


@functools.cache
def add_search_path() -> None:
  """Makes gin find `imagenet.gin` and `gin/imagenet.gin` from any working directory.

  A file of that name below the working directory goes first.
  """
  gin.add_config_file_search_path(str(folder()))
  gin.add_config_file_search_path(str(folder().parent))
