"""What is known of Gaudi, decided for it, and not confirmed on it. No TensorFlow."""

from typing import NamedTuple

# The last bridge released for TensorFlow, and the only version of it that it accepts.
BRIDGE = ("habana-tensorflow", "1.14.0.493")
TENSORFLOW = "2.15.0"
# The first two numbers of the driver's version must be those of the bridge.
DRIVER = "1.14"

FITS = (
  f"{'=='.join(BRIDGE)} fits tensorflow-cpu {TENSORFLOW} (not the CUDA build, which it "
  f"aborts) on Python 3.10, and the driver of SynapseAI {DRIVER}, the last with "
  "TensorFlow."
)


class Decision(NamedTuple):
  """How one thing is done on a card, and why."""

  what: str
  decision: str
  reason: str


DECISIONS = (
  Decision(
    "one card",
    "`OneDeviceStrategy` on `HPU:0`",
    "no cluster to set up, and no collective in the step",
  ),
  Decision(
    "several cards",
    "`HPUStrategy`, one process a card",
    "one process acquires one Gaudi; other strategies of TensorFlow do not know HCCL",
  ),
  Decision(
    "which card",
    "`HLS_MODULE_ID` is the local rank",
    "the bridge knows only the ranks of Open MPI and Horovod; under srun, MPICH or "
    "TF_CONFIG all processes would reach for the first free card",
  ),
  Decision(
    "static shapes",
    "training drops the last partial batch, evaluation pads it with weight 0",
    "each new shape compiles a new recipe; equal shapes also mean equal steps a rank",
  ),
  Decision(
    "`TF_ENABLE_DYNAMIC_SHAPES`",
    "`false`, unless it is set",
    "no shape of this network changes, so the ranges of shapes would only cost",
  ),
  Decision(
    "`experimental_enable_get_next_as_optional`",
    "off",
    "it would ask all ranks before each batch whether data are left; the batches are "
    "equal in number by construction",
  ),
  Decision(
    "preemption handler",
    "off",
    "it looks for Google's metadata server and watches for Google's notices; the "
    "trainer itself writes a checkpoint on SIGTERM",
  ),
  Decision(
    "asynchronous checkpoints",
    "off",
    "a thread of their own writes them: that a write failed, as on a full disk, would "
    "be told no earlier than at the next checkpoint",
  ),
  Decision(
    "float16",
    "refused",
    "Gaudi computes in bfloat16, which needs no loss scaling",
  ),
  Decision(
    "bfloat16",
    "Keras' policy by default; Habana's conversion by `mnv2_hpu.hpu.bf16_conversion`",
    "the policy is what CPU and GPU run too; with both, the precision of an operation "
    "would follow from two settings",
  ),
  Decision(
    "placement of operations",
    "soft; reported by `mnv2_hpu.hpu.op_placement_report`",
    "the bridge moves what it cannot run to the CPU in silence; the report shows it",
  ),
)

# Never run on a card. The doctor prints it, and docs/hpu.md holds the same list.
UNCONFIRMED = (
  "that the bridge finds a card after the environment was set as here",
  "training and evaluation on `HPU:0`: speed, memory, losses and accuracy",
  "that `OneDeviceStrategy` serves one card (Habana names its own strategy)",
  "`HPUStrategy` over HCCL: its speed, and that sums are equal on all ranks",
  "bfloat16 by Keras' policy, and by the conversion pass with the list shipped here",
  "which operations of the training step the bridge leaves to the CPU",
  "that a driver of another version fails; it is refused because Habana pairs them",
  "Horovod on a card (`habana-horovod` in place of `horovod`)",
  "that `HLS_MODULE_ID` chooses the card under srun, MPICH and TF_CONFIG",
  "resuming on a card bit for bit",
)
