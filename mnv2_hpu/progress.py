"""Progress of long work, with an estimate of the time that remains."""

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm import tqdm

PLAIN_INTERVAL = 10.0  # seconds between two lines of a log
LIVE_INTERVAL = 0.1  # seconds between two drawings of a bar

# Rates are taken over the last updates: the first, slow ones (TensorFlow builds its
# graph in them) soon no longer count.
_WINDOW = 16

_BAR = "{bar:20} {desc}"


def format_value(value: object) -> str:
  """Formats a number to 4 digits, anything else as it prints.

  >>> format_value(0.123456), format_value(7), format_value("bfloat16")
  ('0.1235', '7', 'bfloat16')
  """
  return f"{value:.4g}" if isinstance(value, float) else str(value)


class Progress(contextlib.AbstractContextManager["Progress"]):
  """Shows how far a task of known length is, how fast, and how long it will take.

  On a terminal this is a live bar; elsewhere (a file, a CI log) one plain line per
  interval:

      train 440/880 steps (50%) · 12.3 steps/s · 787 images/s · loss 0.53 · 00:36 remain

  A task that resumes gives `initial`: only what this process does counts as speed.
  """

  def __init__(
    self,
    total: int,
    unit: str,
    description: str = "",
    *,
    initial: int = 0,
    images_per_unit: int = 0,
    stream: TextIO | None = None,
    min_interval: float | None = None,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Starts the clock.

    Args:
      total: units at the end, those before `initial` included.
      unit: what is counted, in the singular: "step", "image".
      description: what is being done: "train".
      initial: units that were done before this process started.
      images_per_unit: images in one unit, to show images/s too; 0 shows none.
      stream: where to write; standard error if None.
      min_interval: least seconds between two lines or drawings; None takes
        `LIVE_INTERVAL` on a terminal and `PLAIN_INTERVAL` elsewhere.
      clock: returns seconds.
    """
    self._total = total
    self._unit = unit
    self._description = description
    self._images_per_unit = images_per_unit
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._start = clock()
    self._done = initial
    self._values: Mapping[str, object] = {}
    self._window = collections.deque([(self._start, initial)], maxlen=_WINDOW)
    self._bar: tqdm | None = None
    if self._stream.isatty():
      self._bar = tqdm(
        total=total,
        initial=initial,
        file=self._stream,
        bar_format=_BAR,
        dynamic_ncols=True,
        mininterval=LIVE_INTERVAL if min_interval is None else min_interval,
      )
    self._interval = PLAIN_INTERVAL if min_interval is None else min_interval
    self._last_line = self._start
    self._is_shown = False
    self._closed = False

  def update(self, done: int, **values: object) -> None:
    """Reports that `done` units are done in all, and what was measured last.

    Args:
      done: units done, `initial` included.
      **values: shown by name, floats to 4 digits; underscores become spaces.
    """
    now = self._clock()
    self._window.append((now, done))
    self._done, self._values = done, values
    if self._bar is not None:
      self._bar.set_description_str(self.line(), refresh=False)
      self._bar.update(done - self._bar.n)
      return
    self._is_shown = now - self._last_line >= self._interval or done >= self._total
    if self._is_shown:
      self._last_line = now
      self._write_line()

  def line(self) -> str:
    """Returns the present state as one line of text."""
    percent = f"{self._done / self._total:.0%}" if self._total else "100%"
    count = f"{self._done:,}/{self._total:,} {self._unit}s ({percent})"
    parts = [f"{self._description} {count}".lstrip()]
    rate = self._rate()
    if rate:
      parts.append(f"{rate:.3g} {self._unit}s/s")
      if self._images_per_unit:
        parts.append(f"{rate * self._images_per_unit:,.0f} images/s")
    for name, value in self._values.items():
      parts.append(f"{name.replace('_', ' ')} {format_value(value)}")
    if self._done >= self._total:
      parts.append(f"{tqdm.format_interval(self._clock() - self._start)} in all")
    elif rate:
      seconds = (self._total - self._done) / rate
      parts.append(f"{tqdm.format_interval(seconds)} remain")
    return " · ".join(parts)

  def close(self) -> None:
    """Shows the last state if it was not shown yet; nothing may be shown after."""
    if self._closed:
      return
    self._closed = True
    if self._bar is not None:
      self._bar.refresh()
      self._bar.close()
    elif not self._is_shown and len(self._window) > 1:
      self._write_line()

  def __exit__(self, *error: object) -> None:
    """Closes."""
    self.close()

  def _rate(self) -> float:
    """Units per second over the last updates; 0 while nothing was measured."""
    (start, before), (end, done) = self._window[0], self._window[-1]
    return (done - before) / (end - start) if end > start else 0.0

  def _write_line(self) -> None:
    self._stream.write(f"{self.line()}\n")
    self._stream.flush()
