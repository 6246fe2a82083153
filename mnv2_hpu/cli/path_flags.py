"""The type of every flag that names a file or a folder."""

from absl import flags

from mnv2_hpu import paths


class PathParser(flags.ArgumentParser):
  """Expands `~` and refuses what cannot be opened or written.

  Attributes:
    remote: Whether URLs of TensorFlow's file systems (`gs://…`) serve too.
    written: Whether it is a folder that the command writes.
  """

  syntactic_help = "a path"

  def __init__(self, remote: bool, written: bool) -> None:
    self.remote = remote
    self.written = written

  def parse(self, argument: str) -> str:
    """Returns the path in the form in which it is opened."""
    path = paths.resolve(argument, local=not self.remote)
    if self.written:
      paths.check_writable(path)
    return path

  def flag_type(self) -> str:
    """Returns what `--help` calls it."""
    return "path"


def define_path(
  name: str,
  default: str | None,
  help_text: str,
  *,
  required: bool = False,
  remote: bool = False,
  written: bool = False,
) -> None:
  """Defines a flag for a file or a folder.

  Args:
    name: Name of the flag.
    default: Its value where it is not given.
    help_text: What `--help` shows.
    required: Whether it must be given.
    remote: Whether URLs of TensorFlow's file systems (`gs://…`) serve too.
    written: Whether it is a folder that the command writes.
  """
  if remote:
    help_text += " May be a URL that TensorFlow opens (gs://…)."
  flags.DEFINE(PathParser(remote, written), name, default, help_text, required=required)


def given() -> dict[str, str]:
  """Returns the paths of the flags that have one, by the flag's name."""
  found = {}
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    if isinstance(flag.parser, PathParser) and isinstance(flag.value, str):
      found[name] = flag.value
  return found
