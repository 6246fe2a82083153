"""The doctor's checks: facts about the machine to findings, one function each."""

import dataclasses
from collections.abc import Callable

from mnv2_hpu.cli.doctor_facts import Facts
from mnv2_hpu.distribute import hpu_environment

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "fail"


@dataclasses.dataclass(frozen=True)
class Finding:
  """One line of the doctor's report."""

  status: str  # OK, NOTE, WARN or FAIL
  topic: str
  text: str
  advice: str = ""  # what to do; empty where nothing is to be done


# Around what the locks hold: distribution, lowest version, first too new, why.
BOUNDS = (
  ("tf-models-official", "2.15", "2.16", "this release is made for 2.15"),
  ("gin-config", "0.5", "0.6", "this release is made for 0.5"),
  ("absl-py", "1.4", "2", "this release is made for 1.4"),
  ("protobuf", "3.20", "5", "TensorFlow 2.15 cannot be imported with protobuf 5"),
  ("tensorflow-datasets", "4.9", "4.9.8", "4.9.8 needs protobuf 5"),
  ("tensorflow-metadata", "1.13", "1.16", "1.16 needs protobuf 5"),
)

# CPU features with which TensorFlow 2.15 turns oneDNN on by itself.
ONEDNN_FEATURES = frozenset({"avx512_vnni", "avx512_bf16", "amx_tile"})
SHOWN_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")

HOROVOD_BUILD = (
  "HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 "
  "HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 "
  "pip install --no-build-isolation horovod==0.28.1"
)


def numbers(version: str) -> tuple[int, ...]:
  """Returns the leading numbers of a version, for comparison.

  >>> numbers("2.15.0.post1")
  (2, 15, 0)
  """
  parts = []
  for part in version.split("."):
    if not part.isdigit():
      break
    parts.append(int(part))
  return tuple(parts)


def python(facts: Facts) -> Finding:
  """3.10 for Gaudi, 3.11 for everything else."""
  text = f"{'.'.join(map(str, facts.python))} ({facts.executable})"
  if facts.python[:2] == (3, 10):
    return Finding(OK, "Python", text)
  if facts.python[:2] == (3, 11):
    return Finding(
      WARN, "Python", text, "Habana's bridge has no wheel for 3.11: for Gaudi use 3.10."
    )
  return Finding(FAIL, "Python", text, "Use Python 3.10 (or 3.11 without Gaudi).")


def system(facts: Facts) -> Finding:
  """The locks are made for Linux on x86-64."""
  if facts.system == "Linux x86_64":
    return Finding(OK, "system", facts.system)
  return Finding(
    WARN, "system", facts.system, "The locked requirements are for Linux x86_64 only."
  )


def processor(facts: Facts) -> Finding:
  """The cores that may be used, and the vector instructions."""
  features = " ".join(name for name in SHOWN_FEATURES if name in facts.cpu_flags)
  return Finding(OK, "processor", f"{facts.cores} cores, {features or 'no AVX2'}")


def onednn(facts: Facts) -> Finding:
  """Whether TensorFlow, started without help, uses oneDNN on this CPU."""
  by_itself = bool(ONEDNN_FEATURES & facts.cpu_flags)
  if facts.onednn == "1" or (facts.onednn is None and by_itself):
    return Finding(OK, "oneDNN", "on")
  why = f"TF_ENABLE_ONEDNN_OPTS={facts.onednn}" if facts.onednn else "not on this CPU"
  return Finding(
    WARN,
    "oneDNN",
    f"off by default: {why}",
    "mnv2-train turns it on unless the variable is set; before "
    "`python -m official.vision.train`: export TF_ENABLE_ONEDNN_OPTS=1",
  )


def tensorflow(facts: Facts) -> Finding:
  """TensorFlow imports, and fits Model Garden, which is released for each version."""
  found = facts.tensorflow
  if found is None:
    return Finding(
      FAIL, "TensorFlow", f"cannot be imported: {facts.tensorflow_error}", "make setup"
    )
  text = f"{found.version}, {'CUDA' if found.cuda_build else 'CPU'} build"
  garden = facts.version("tf-models-official") or ""
  if numbers(garden)[:2] not in ((), numbers(found.version)[:2]):
    return Finding(
      FAIL,
      "TensorFlow",
      f"{text} does not fit tf-models-official {garden}",
      f"pip install tensorflow-cpu=={garden}",
    )
  return Finding(OK, "TensorFlow", text)


def keras(facts: Facts) -> Finding:
  """The Keras that Model Garden uses must be that of TensorFlow's own version."""
  found = facts.tensorflow
  if found is None:
    return Finding(NOTE, "Keras", "unknown without TensorFlow")
  installed = facts.version(found.keras) or "unknown"
  text = f"{found.keras} {installed}"
  if numbers(installed)[:2] == numbers(found.version)[:2]:
    return Finding(OK, "Keras", text)
  return Finding(
    FAIL,
    "Keras",
    f"{text} does not fit TensorFlow {found.version}",
    f"pip install {found.keras}=={'.'.join(found.version.split('.')[:2])}.*",
  )


def _bounded(name: str, lowest: str, too_new: str, why: str) -> Callable[..., Finding]:
  def check(facts: Facts) -> Finding:
    installed = facts.version(name)
    if installed is None:
      return Finding(FAIL, name, "is not installed", "make setup")
    if numbers(lowest) <= numbers(installed) < numbers(too_new):
      return Finding(OK, name, installed)
    wanted = f">={lowest},<{too_new}"
    return Finding(
      WARN, name, f"{installed} is not {wanted}: {why}", f"pip install '{name}{wanted}'"
    )

  return check


def bridge(facts: Facts) -> Finding:
  """Habana's bridge fits one version of TensorFlow, in the build without CUDA."""
  topic = "habana-tensorflow"
  installed = facts.version(topic)
  if installed is None:
    return Finding(NOTE, topic, "is not installed: only Gaudi needs it")
  if facts.tensorflow is None:
    return Finding(NOTE, topic, f"{installed}, of no use without TensorFlow")
  if installed != hpu_environment.BRIDGE[1]:
    return Finding(
      WARN,
      topic,
      f"{installed} was never tried",
      f"pip install {'=='.join(hpu_environment.BRIDGE)}",
    )
  if facts.tensorflow.version != hpu_environment.TENSORFLOW:
    return Finding(
      FAIL,
      topic,
      f"{installed} accepts TensorFlow {hpu_environment.TENSORFLOW} only, not "
      f"{facts.tensorflow.version}",
      f"pip install tensorflow-cpu=={hpu_environment.TENSORFLOW}",
    )
  if facts.tensorflow.cuda_build:
    return Finding(
      FAIL,
      topic,
      f"{installed} aborts the process with the CUDA build of TensorFlow",
      "pip uninstall tensorflow && pip install tensorflow-cpu=="
      f"{hpu_environment.TENSORFLOW}",
    )
  return Finding(OK, topic, f"{installed}, fits TensorFlow {facts.tensorflow.version}")


def horovod(facts: Facts) -> Finding:
  """Horovod, where installed, was built for TensorFlow."""
  names = [name for name in ("horovod", "habana-horovod") if facts.version(name)]
  if not names:
    return Finding(NOTE, "Horovod", "is not installed: only several processes need it")
  text = ", ".join(f"{name} {facts.version(name)}" for name in names)
  if facts.horovod_has_tensorflow:
    return Finding(OK, "Horovod", f"{text}, built for TensorFlow")
  return Finding(FAIL, "Horovod", f"{text} was built without TensorFlow", HOROVOD_BUILD)


def compiler(facts: Facts) -> Finding:
  """Horovod is built from source."""
  if facts.compiler:
    return Finding(OK, "C++ compiler", facts.compiler)
  return Finding(
    WARN, "C++ compiler", "none was found", "Horovod needs one: apt install g++"
  )


def devices(facts: Facts) -> Finding:
  """The devices that TensorFlow sees without Habana's bridge."""
  types = facts.tensorflow.devices if facts.tensorflow else ()
  shown = ", ".join(f"{types.count(kind)} {kind}" for kind in sorted(set(types)))
  return Finding(OK if types else NOTE, "devices", shown or "unknown")


def disk(facts: Facts) -> Finding:
  """Room for the environment (2 GB) and the runs."""
  text = f"{facts.free_gigabytes:.0f} GB free in the working directory"
  if facts.free_gigabytes >= 4:
    return Finding(OK, "disk", text)
  status = WARN if facts.free_gigabytes >= 1 else FAIL
  return Finding(
    status, "disk", text, "Free some: checkpoints and TFRecords need room."
  )


def driver(facts: Facts) -> Finding:
  """The driver, where there is one, is of the bridge's release."""
  topic = "Gaudi driver"
  if facts.driver is None:
    return Finding(NOTE, topic, "none: only Gaudi needs it")
  if numbers(facts.driver.partition("-")[0])[:2] == numbers(hpu_environment.DRIVER):
    return Finding(OK, topic, facts.driver)
  return Finding(FAIL, topic, f"{facts.driver} does not fit", hpu_environment.FITS)


CHECKS: tuple[Callable[[Facts], Finding], ...] = (
  python,
  system,
  processor,
  onednn,
  tensorflow,
  keras,
  *(_bounded(*bound) for bound in BOUNDS),
  bridge,
  driver,
  horovod,
  compiler,
  devices,
  disk,
)


def hpu(available: bool, reason: str) -> Finding:
  """The answer of the probe that the user asked for."""
  if available:
    return Finding(OK, "Gaudi probe", "a card can be used")
  return Finding(FAIL, "Gaudi probe", reason, "See the driver's `hl-smi`.")
