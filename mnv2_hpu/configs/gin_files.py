"""Where the gin and YAML files are: in a checkout, and in an installed wheel."""

import difflib
import functools
import io
from pathlib import Path

import gin
from official.core import exp_factory, registry

import mnv2_hpu
from mnv2_hpu import deprecations, driver_flags
from mnv2_hpu.configs.recipe import EXPERIMENTS
from mnv2_hpu.errors import UserError, did_you_mean

PATTERNS = ("*.gin", "*.yaml")
_MACRO = "gin.macro"  # gin's name of what binds `NAME = …`


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
    name: Such as `imagenet.gin`, `gin/imagenet.gin` or `swap/retinanet.yaml`.

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


def _replacement(name: str) -> tuple[str, ...] | None:
  """Returns the shipped files that took the place of a path that gin looks for."""
  relative = name.removeprefix(f"{folder()}/").removeprefix("gin/")
  return deprecations.GIN_FILES.get(relative)


def _open_replacement(name: str) -> io.StringIO:
  """Returns the content of a file that includes those which took its place."""
  new = [f"gin/{file}" for file in _replacement(name) or ()]
  deprecations.warn(name, " and ".join(new))
  return io.StringIO("".join(f"include '{file}'\n" for file in new))


@functools.cache
def add_search_path() -> None:
  """Makes gin find `imagenet.gin` and `gin/imagenet.gin` from any working directory.

  A file of that name below the working directory goes first. Files that have moved are
  found by their old names too.
  """
  gin.add_config_file_search_path(str(folder()))
  gin.add_config_file_search_path(str(folder().parent))
  gin.config.register_file_reader(
    _open_replacement, lambda name: _replacement(name) is not None
  )


@functools.cache
def install_experiment_check() -> None:
  """Refuses bindings of this package's experiment for one of Model Garden's.

  Raises:
    UserError: From the hook, when the driver has parsed gin.
  """

  @gin.config.register_finalize_hook
  def hook(config: dict[tuple[str, str], dict[str, object]]) -> None:
    chosen = driver_flags.driver_experiment()
    bound = {selector.split(".")[-1] for _, selector in config}
    of_ours = sorted(bound.intersection(EXPERIMENTS))
    if chosen is None or chosen in EXPERIMENTS or not of_ours:
      return
    try:
      factory = registry.lookup(exp_factory._REGISTERED_CONFIGS, chosen)
    except LookupError:  # the driver says so next
      return
    if factory.__module__.startswith("official."):
      raise UserError(
        f"--experiment={chosen} is Model Garden's and reads none of the bindings of "
        f"{of_ours[0]} that gin makes: data, network and learning rate would be its "
        f"own. Use --experiment={of_ours[0]}, or --gin_file=gin/plugin.gin and a "
        "--config_file."
      )


@functools.cache
def install_macro_check() -> None:
  """Refuses a macro that nothing reads and whose name is nearly that of another.

  Others that nothing reads are no mistakes: a run that binds `data_dir` itself leaves
  the DATA_DIR of its gin file unread.

  Raises:
    UserError: From the hook, when the driver has parsed gin.
  """

  @gin.config.register_finalize_hook
  def hook(config: dict[tuple[str, str], dict[str, object]]) -> None:
    bound = {name for name, selector in config if selector == _MACRO}
    references = gin.config.iterate_references(config)
    read = {"/".join(r.scopes) for r in references if r.selector == _MACRO}
    for name in sorted(bound - read):
      if difflib.get_close_matches(name, read):
        raise UserError(
          f"gin: nothing reads the macro {name!r}. {did_you_mean(name, read)}"
        )
