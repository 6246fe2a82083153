"""One line of the doctor's report."""

import dataclasses

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "fail"


@dataclasses.dataclass(frozen=True)
class CheckResult:
  """One line of the doctor's report."""

  status: str  # OK, NOTE, WARN or FAIL
  topic: str
  text: str
  advice: str = ""  # what to do; empty where nothing is to be done
