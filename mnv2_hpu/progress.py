"""Progress of long work, with an estimate of the time that remains."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

LINE_INTERVAL = 10.0  # seconds between two lines of a log
LIVE_INTERVAL = 0.1  # seconds between two drawings of a bar

_LINE = (
  "{desc}{n_fmt}/{total_fmt} {unit}s ({percentage:.0f}%){speed}{postfix}, "
  "{elapsed} elapsed, {remaining} remain"
)


class Progress(tqdm):
  """A progress bar on a terminal; elsewhere (a file, a CI log) a line per interval.

      train: 440/880 steps (50%), 12.3 steps/s, 787 images/s, loss=0.53, 00:36 …

  A task that resumes gives `initial`: only what this process does counts as speed.
  """

  total: int | None
  monitor_interval = 0  # no thread: programs that show progress fork

  def __init__(
    self,
    total: int | None = None,
    unit: str = "step",
    description: str = "",
    *,
    initial: int = 0,
    images_per_unit: int = 0,
    file: TextIO | None = None,
    min_interval: float | None = None,
  ) -> None:
    """Starts the clock.

    Args:
      total: Units at the end, those before `initial` included; None where the first
        `update_to` says it.
      unit: Name of what is counted, in the singular: "step", "image".
      description: Name of the work: "train".
      initial: Units that were done before this process started.
      images_per_unit: Images in one unit, to show images/s too; 0 shows none.
      file: Stream to write to; standard error if None.
      min_interval: Seconds between two lines or drawings; `LIVE_INTERVAL` on a terminal
        and `LINE_INTERVAL` elsewhere if None.
    """
    file = file or sys.stderr
    self._is_live = file.isatty()
    self._images_per_unit = images_per_unit
    self._shown = initial
    interval = LIVE_INTERVAL if self._is_live else LINE_INTERVAL
    super().__init__(
      total=total,
      initial=initial,
      unit=unit,
      desc=f"{description}: " if description else "",
      file=file,
      miniters=1,
      mininterval=interval if min_interval is None else min_interval,
      dynamic_ncols=self._is_live,
      leave=self._is_live,  # else `close` shows the last line, and no empty one
      bar_format="{bar:20} " + _LINE if self._is_live else _LINE,
    )

  def update_to(self, n: int, total: int | None = None, **values: float) -> None:
    """Reports that `n` units are done in all, and what was measured last.

    Args:
      n: Units done, `initial` included.
      total: Units at the end, for a progress built without: what the first call says
        is done was done before, and does not count as speed.
      **values: Measurements to show, by name.
    """
    if self.total is None:
      self.total = total
      self.n = self.initial = self.last_print_n = self._shown = n
    self.set_postfix(values, refresh=False)
    self.update(n - self.n)
    if self.total is not None and n >= self.total:
      self.refresh()

  @property
  def format_dict(self) -> dict[str, Any]:
    """Values for the line: tqdm's, and the speed in units and in images."""
    values = super().format_dict
    elapsed = values["elapsed"]
    rate = values["rate"]  # that of the last moments; at the end it is the mean
    if not rate or (self.total is not None and self.n >= self.total):
      rate = elapsed and (self.n - self.initial) / elapsed
    speed = f", {rate:.3g} {self.unit}s/s" if rate else ""
    if rate and self._images_per_unit:
      speed += f", {rate * self._images_per_unit:,.0f} images/s"
    return {**values, "speed": speed}

  def display(self, msg: str | None = None, pos: int | None = None) -> bool:
    """Draws the bar, or writes a line where something was done since the last one."""
    if self._is_live:
      return super().display(msg, pos)
    if self.n != self._shown:
      self._shown = self.n
      self.fp.write(f"{self}\n")
      self.fp.flush()
    return False
