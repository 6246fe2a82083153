"""The commands of Markdown files and manifests, and how each kind of them is checked.

A fence tagged `bash` holds commands that a reader is to type; other fences hold output.
Every command must fit a row of `KINDS`, or the test fails and shows it.
"""

import re
import shlex

import yaml

SHOWN = "shown"  # needs a network or a second machine; only read
MAKE = "make"  # the target exists; `make test` and `make quickstart` run for real
TRAIN = "train"  # resolved for real with --dry_run: flags, gin names, files
ARGUMENTS = "arguments"  # the command parses and validates its flags, then stops
RUN = "run"  # run as it stands

TRAIN_MODULES = ("official.vision.train", "mnv2_hpu.cli.train")

# (pattern of a whole command without launcher and environment, kind); the first fits.
KINDS = (
  (
    r"(git clone|cd|source|pip install|uv pip|hl-smi|docker|curl|kubectl|export)( .*)?",
    SHOWN,
  ),
  (r"python -m official\.vision\.data\..*", SHOWN),  # reads COCO itself
  (r"make( [a-z-]+)?( [A-Z]+=\S+)*", MAKE),
  (r"python -m official\.vision\.train .*", TRAIN),
  (
    r"(mnv2-train|python entrypoints/train\.py|python -m mnv2_hpu\.cli\.train) .*",
    TRAIN,
  ),
  (r"(mnv2-doctor|python entrypoints/doctor\.py)", RUN),
  (
    r"(mnv2-[a-z0-9-]+|python entrypoints/\w+\.py|python -m mnv2_hpu\.\S+)( .*)?",
    ARGUMENTS,
  ),
)

_ENVIRONMENT = r"(?:[A-Z_0-9]+=\S+ )*"
_SUPERVISOR = r"(?:mnv2-launch (?:--\S+ )*-- )?"
_LAUNCHER = rf"{_SUPERVISOR}(?:(?:horovodrun|mpirun) (?:(?!python|mnv2-).)*)?"


def commands(markdown):
  """Returns the commands of the `bash` fences, continuation lines joined."""
  fences = re.findall(r"^```bash\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
  lines = "".join(fences).replace("\\\n", " ").splitlines()
  joined = (" ".join(line.split(" #")[0].split()) for line in lines)
  return [line for line in joined if line and not line.startswith("#")]


def manifest(path):
  """Returns the commands of the containers of a Kubernetes manifest."""

  def found_in(value):
    if isinstance(value, dict) and "image" in value and "command" in value:
      yield shlex.join(value["command"])
    elif isinstance(value, dict | list):
      for part in value.values() if isinstance(value, dict) else value:
        yield from found_in(part)

  return list(found_in(yaml.safe_load(path.read_text())))


def program(command):
  """Returns the command without environment variables and launcher."""
  return re.sub(f"^{_ENVIRONMENT}{_LAUNCHER}", "", command)


def kind(command):
  """Returns the kind of a command, None where no row fits."""
  bare = program(command)
  return next((kind for row, kind in KINDS if re.fullmatch(row, bare)), None)


def module_and_arguments(command):
  """Returns what `python -m` is to run for a command of this project."""
  words = shlex.split(program(command))
  if words[0].startswith("mnv2-"):
    name = words[0].removeprefix("mnv2-").replace("-", "_")
    return f"mnv2_hpu.cli.{name}", words[1:]
  if words[1] == "-m":
    return words[2], words[3:]
  script = re.fullmatch(r"entrypoints/(\w+)\.py", words[1])
  return f"mnv2_hpu.cli.{script[1]}", words[2:]


def links(markdown):
  """Returns the relative targets of the links outside of code, without anchors."""
  text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
  targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
  return [t for t in targets if not re.match(r"[a-z]+:", t)]
