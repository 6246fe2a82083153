"""The checks: one function each, from the environment to a line of the report."""

from collections import Counter
from collections.abc import Callable, Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mnv2_hpu import __version__, compat
from mnv2_hpu.distribute import hpu_environment
from mnv2_hpu.doctor import machine_checks
from mnv2_hpu.doctor.environment import Environment
from mnv2_hpu.doctor.results import FAIL, NOTE, OK, WARN, CheckResult

# As Habana writes the version of the bridge's pair.
DRIVER_PACKAGE = "-".join(hpu_environment.BRIDGE[1].rsplit(".", 1))

HOROVOD_BUILD = (
  "HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 "
  "HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 "
  "pip install --no-build-isolation horovod==0.28.1"
)


def _stack(env: Environment) -> compat.Stack:
  """Returns the stack whose Model Garden is installed; the newest one for others."""
  installed = compat.minor(env.version(compat.MODEL_GARDEN) or "")
  return compat.STACKS.get(installed, compat.STACKS[max(compat.STACKS)])


def python(env: Environment) -> CheckResult:
  """Every stack was tried with some versions; Gaudi needs 3.10."""
  text = f"{'.'.join(map(str, env.python))} ({env.executable})"
  running = f"{env.python[0]}.{env.python[1]}"
  tried = _stack(env).pythons
  if running in tried:
    return CheckResult(OK, "Python", text)
  return CheckResult(
    FAIL,
    "Python",
    text,
    f"Use Python {', '.join(sorted(tried, key=Version))}. "
    f"make setup PYTHON=python{tried[0]}",
  )


def tensorflow(env: Environment) -> CheckResult:
  """TensorFlow imports, and fits Model Garden, which is released for each version."""
  found = env.tensorflow
  if found is None:
    return CheckResult(
      FAIL, "TensorFlow", f"cannot be imported: {env.tensorflow_error}", "make setup"
    )
  text = f"{found.version}, {'CUDA' if found.cuda_build else 'CPU'} build"
  upstream = env.version("tf-models-official") or ""
  if upstream and compat.minor(upstream) != compat.minor(found.version):
    return CheckResult(
      FAIL,
      "TensorFlow",
      f"{text} does not fit tf-models-official {upstream}",
      f"pip install tensorflow-cpu=={upstream}",
    )
  return CheckResult(OK, "TensorFlow", text)


def keras(env: Environment) -> CheckResult:
  """The Keras that Model Garden uses must be that of TensorFlow's own version."""
  found = env.tensorflow
  if found is None:
    return CheckResult(NOTE, "Keras", "unknown without TensorFlow")
  installed = env.version(found.keras) or "unknown"
  text = f"{found.keras} {installed}"
  if compat.minor(installed) == compat.minor(found.version):
    return CheckResult(OK, "Keras", text)
  return CheckResult(
    FAIL,
    "Keras",
    f"{text} does not fit TensorFlow {found.version}",
    f"pip install {found.keras}=={compat.minor(found.version)}.*",
  )


def requirements(env: Environment) -> list[CheckResult]:
  """Returns whether each requirement of this package, and of its stack, is met."""
  bounds = {r.name: r.specifier for r in map(Requirement, _stack(env).bounds)}
  return [
    _requirement(env, r.name, r.specifier & bounds.get(r.name, SpecifierSet()))
    for r in env.requirements
  ]


def _requirement(env: Environment, name: str, allowed: SpecifierSet) -> CheckResult:
  installed = env.version(name.lower())
  if installed is None:
    return CheckResult(FAIL, name, "is not installed", "make setup")
  if allowed.contains(installed, prereleases=True):
    return CheckResult(OK, name, installed)
  wanted = ",".join(sorted(map(str, allowed), reverse=True))
  return CheckResult(
    WARN,
    name,
    f"{installed} is not {wanted}, which mnv2-hpu {__version__} needs",
    f"pip install '{name}{wanted}'",
  )


def bridge(env: Environment) -> CheckResult:
  """Habana's bridge fits one version of TensorFlow, in the build without CUDA."""
  topic = "habana-tensorflow"
  installed = env.version(topic)
  if installed is None:
    return CheckResult(
      NOTE, topic, f"is not installed: only Gaudi needs it. {hpu_environment.FITS}"
    )
  if env.tensorflow is None:
    return CheckResult(NOTE, topic, f"{installed}, of no use without TensorFlow")
  if installed != hpu_environment.BRIDGE[1]:
    return CheckResult(
      WARN,
      topic,
      f"{installed} was never tried",
      f"pip install {'=='.join(hpu_environment.BRIDGE)}",
    )
  if env.tensorflow.version != hpu_environment.TENSORFLOW:
    return CheckResult(
      FAIL,
      topic,
      f"{installed} accepts TensorFlow {hpu_environment.TENSORFLOW} only, not "
      f"{env.tensorflow.version}",
      f"pip install tensorflow-cpu=={hpu_environment.TENSORFLOW}",
    )
  if env.tensorflow.cuda_build:
    return CheckResult(
      FAIL,
      topic,
      f"{installed} aborts the process with the CUDA build of TensorFlow",
      "pip uninstall tensorflow && pip install tensorflow-cpu=="
      f"{hpu_environment.TENSORFLOW}",
    )
  return CheckResult(
    OK, topic, f"{installed}, fits TensorFlow {env.tensorflow.version}"
  )


def horovod(env: Environment) -> CheckResult:
  """Horovod, where installed, was built for TensorFlow."""
  names = [name for name in ("horovod", "habana-horovod") if env.version(name)]
  if not names:
    return CheckResult(
      NOTE, "Horovod", "is not installed: only several processes need it"
    )
  text = ", ".join(f"{name} {env.version(name)}" for name in names)
  if env.horovod_has_tensorflow:
    return CheckResult(OK, "Horovod", f"{text}, built for TensorFlow")
  return CheckResult(
    FAIL, "Horovod", f"{text} was built without TensorFlow", HOROVOD_BUILD
  )


def devices(env: Environment) -> CheckResult:
  """The devices that TensorFlow sees without Habana's bridge."""
  types = env.tensorflow.devices if env.tensorflow else ()
  shown = ", ".join(f"{types.count(kind)} {kind}" for kind in sorted(set(types)))
  return CheckResult(OK if types else NOTE, "devices", shown or "unknown")


def driver(env: Environment) -> CheckResult:
  """The driver, where there is one, is of the bridge's release."""
  topic = "Gaudi driver"
  if env.driver is None:
    return CheckResult(NOTE, topic, "none: only Gaudi needs it")
  if compat.minor(env.driver) == hpu_environment.DRIVER:
    return CheckResult(OK, topic, env.driver)
  return CheckResult(
    FAIL,
    topic,
    f"{env.driver} does not fit",
    f"{hpu_environment.FITS} From Habana's repository: sudo apt install "
    f"habanalabs-dkms={DRIVER_PACKAGE}",
  )


CHECKS: tuple[Callable[[Environment], CheckResult], ...] = (
  python,
  machine_checks.system,
  machine_checks.processor,
  machine_checks.onednn,
  tensorflow,
  keras,
  bridge,
  driver,
  horovod,
  machine_checks.compiler,
  machine_checks.native_input,
  devices,
  machine_checks.memory,
  machine_checks.disk,
)


def run(env: Environment) -> list[CheckResult]:
  """Returns the results of all checks."""
  of_folders = [result for f in env.folders for result in machine_checks.folder(f)]
  return [*(check(env) for check in CHECKS), *of_folders, *requirements(env)]


def hpu(available: bool, reason: str) -> CheckResult:
  """Returns the result of the probe that the user requested."""
  if available:
    return CheckResult(OK, "Gaudi probe", "a device can be used")
  return CheckResult(FAIL, "Gaudi probe", reason, "See the driver's `hl-smi`.")


def report(results: Sequence[CheckResult]) -> str:
  """Returns a line for each result with its advice, what is unconfirmed, the counts.

  >>> print(report([CheckResult("warn", "disk", "2 GB free", "Free some.")]))
  warn  disk                 2 GB free
                             -> Free some.
  ...
  0 ok, 1 warning, 0 failures
  """
  lines = []
  for result in results:
    lines.append(f"{result.status:<5} {result.topic:<20} {result.text}")
    if result.advice:
      lines.append(f"{'':<27}-> {result.advice}")
  lines.append("No Gaudi device has confirmed yet:")
  lines += [f"  - {what}" for what in hpu_environment.UNCONFIRMED]
  count = Counter(result.status for result in results)
  counts = [
    f"{count[status]} {word}{'s' * (count[status] != 1)}"
    for status, word in ((WARN, "warning"), (FAIL, "failure"))
  ]
  lines.append(", ".join([f"{count[OK]} ok", *counts]))
  return "\n".join(lines)
