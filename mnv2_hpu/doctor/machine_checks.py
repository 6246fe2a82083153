"""The checks of the machine: processor, memory, disk, and the folders of a run."""

import errno
import os
import shlex

from mnv2_hpu.doctor import folders
from mnv2_hpu.doctor.environment import Environment
from mnv2_hpu.doctor.results import FAIL, NOTE, OK, WARN, CheckResult

# CPU features with which TensorFlow turns oneDNN on by itself.
ONEDNN_FEATURES = frozenset({"avx512_vnni", "avx512_bf16", "amx_tile"})
SHOWN_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")

# A process that trains a batch of 32 images of 224 pixels has held 2.7 GB at most, one
# that has only imported Model Garden 0.6 GB (2026-11-27, 2.15, 2 threads).
COMFORTABLE_GIGABYTES = 4.0
MIN_GIGABYTES = 2.0

# More than the delay of a network and the 2 seconds of the coarsest file system.
MAX_SKEW_SECONDS = 5.0

_HERE = "the working directory"
_LOOK = "ls -ld {0}; df {0}"
COMMANDS = {
  errno.EACCES: 'sudo chown "$USER" {0} && chmod u+rwx {0}',
  errno.EPERM: 'sudo chown "$USER" {0} && chmod u+rwx {0}',
  errno.EROFS: 'sudo mount -o remount,rw "$(stat -c %m {0})"',
  errno.ENOSPC: "du -xhd1 {0} | sort -h  # what to delete",
  errno.EDQUOT: "quota -s; du -xhd1 {0} | sort -h  # what to delete",
  errno.EFBIG: "ulimit -f unlimited",
  errno.ENOTDIR: "It is a file; name a folder, or: mv {0} {0}.old",
  errno.ESTALE: 'sudo mount -o remount "$(stat -c %m {0})"',
}


def system(env: Environment) -> CheckResult:
  """The locks are made for Linux on x86-64."""
  if env.system == "Linux x86_64":
    return CheckResult(OK, "system", env.system)
  return CheckResult(
    WARN,
    "system",
    env.system,
    "The locks are for Linux x86_64 only; for this system: pip install .",
  )


def processor(env: Environment) -> CheckResult:
  """The cores that may be used, and the vector instructions."""
  features = " ".join(name for name in SHOWN_FEATURES if name in env.cpu_flags)
  return CheckResult(OK, "processor", f"{env.cores} cores, {features or 'no AVX2'}")


def onednn(env: Environment) -> CheckResult:
  """Whether TensorFlow, started without help, uses oneDNN on this CPU."""
  by_itself = bool(ONEDNN_FEATURES & env.cpu_flags)
  if env.onednn == "1" or (env.onednn is None and by_itself):
    return CheckResult(OK, "oneDNN", "on")
  why = (
    f"TF_ENABLE_ONEDNN_OPTS={env.onednn}"
    if env.onednn
    else "this CPU lacks AVX-512 VNNI"
  )
  return CheckResult(
    WARN,
    "oneDNN",
    f"off by default: {why}",
    "mnv2-train turns it on unless the variable is set; before "
    "`python -m official.vision.train`: export TF_ENABLE_ONEDNN_OPTS=1",
  )


def compiler(env: Environment) -> CheckResult:
  """Horovod is built from source."""
  if env.compiler:
    return CheckResult(OK, "C++ compiler", env.compiler)
  return CheckResult(
    WARN, "C++ compiler", "none was found", "Horovod needs one: apt install g++"
  )


def native_input(env: Environment) -> CheckResult:
  """The operations in C++ are built once for each TensorFlow and kind of processor."""
  if env.tensorflow is None:
    return CheckResult(NOTE, "input in C++", "unknown without TensorFlow")
  if env.tensorflow.has_native_input:
    return CheckResult(OK, "input in C++", "built")
  return CheckResult(
    NOTE,
    "input in C++",
    "is not built or turned off: TensorFlow's operations, which are slower",
    "make setup-native",
  )


def _space(topic: str, gigabytes: float, where: str) -> CheckResult:
  text = f"{gigabytes:.0f} GB free in {where}"
  if gigabytes >= 4:
    return CheckResult(OK, topic, text)
  status = WARN if gigabytes >= 1 else FAIL
  return CheckResult(
    status,
    topic,
    text,
    "Checkpoints and TFRecords need room. What is large: "
    f"du -xhd1 {shlex.quote('.' if where == _HERE else where)} | sort -h",
  )


def disk(env: Environment) -> CheckResult:
  """Room for the environment (2 GB) and the runs."""
  return _space("disk", env.free_gigabytes, _HERE)


def memory(env: Environment) -> CheckResult:
  """The lowest limit of memory leaves room for a training."""
  if not env.memory:
    return CheckResult(NOTE, "memory", "unknown")
  lowest = min(env.memory)
  text = f"{lowest.gigabytes:.1f} GB {lowest.source}"
  if lowest.gigabytes >= COMFORTABLE_GIGABYTES:
    return CheckResult(OK, "memory", text)
  status = WARN if lowest.gigabytes >= MIN_GIGABYTES else FAIL
  return CheckResult(status, "memory", text, lowest.advice)


def folder(found: folders.Folder) -> list[CheckResult]:
  """Returns whether a folder can be used, has room, and agrees about the time."""
  if found.error is not None:
    is_only_read = found.flag == "--data_dir" and found.failed == "written"
    text = f"{found.existing} cannot be {found.failed}: {found.error.strerror}"
    advice = COMMANDS.get(found.error.errno or 0, _LOOK).format(
      shlex.quote(found.existing)
    )
    if is_only_read:
      advice = f"Training only reads it; to prepare data there: {advice}"
    return [CheckResult(WARN if is_only_read else FAIL, found.flag, text, advice)]
  if found.existing == os.path.abspath(found.path):
    use = CheckResult(OK, found.flag, f"{found.path} can be written")
  else:
    text = f"{found.path} does not exist; it can be made in {found.existing}"
    use = CheckResult(NOTE, found.flag, text)
  space = _space(f"{found.flag} disk", found.free_gigabytes, found.existing)
  return [use, space, _clock(found)]


def _clock(found: folders.Folder) -> CheckResult:
  topic = f"{found.flag} clock"
  if abs(found.skew) > MAX_SKEW_SECONDS:
    where = "ahead of" if found.skew > 0 else "behind"
    return CheckResult(
      WARN,
      topic,
      f"a file just written is {abs(found.skew):.0f} s {where} this machine's clock",
      "here and on the file server: sudo timedatectl set-ntp true",
    )
  if found.newest_age < -MAX_SKEW_SECONDS:
    return CheckResult(
      WARN,
      topic,
      f"{found.newest} was changed {-found.newest_age:.0f} s in the future",
      "on the machine that wrote it: sudo timedatectl set-ntp true; "
      f"then: touch {shlex.quote(found.newest)}",
    )
  return CheckResult(OK, topic, "agrees with this machine's")
