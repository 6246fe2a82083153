"""How long to wait, and how often to look, where something goes wrong."""

import dataclasses

import gin


@gin.configurable(module="mnv2_hpu")
@dataclasses.dataclass(frozen=True)
class FaultSettings:
  """Bind in gin as `mnv2_hpu.FaultSettings.missing_rank_seconds = 30`.

  Attributes:
    seconds_between_checks: how long training and evaluation go on, at most and
      roughly, before they notice a SIGTERM: the length of a part of an inner loop.
    missing_rank_seconds: after so long without a sign of life of another rank, the
      others end. A rank whose process has ended is noticed at once. Not less than a
      minute where evaluations last as long: TensorFlow 2.15 may need up to 60 seconds
      to give up an iterator (docs/multi_card.md), and no thread of Python runs then.
    stall_warning_seconds: after so long without a finished step, where it is stuck is
      logged, again and again.
    stall_seconds: after so long without a finished step the process ends; 0 never.
      The first step of a large graph may take long to compile.
  """

  seconds_between_checks: float = 1.0
  missing_rank_seconds: float = 100.0
  stall_warning_seconds: float = 120.0
  stall_seconds: float = 1800.0
