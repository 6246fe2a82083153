"""Shows the progress of work that reports (done, total)."""

import contextlib
from collections.abc import Callable, Iterator

from mnv2_hpu.progress import Progress


@contextlib.contextmanager
def shown_progress(unit: str, description: str) -> Iterator[Callable[[int, int], None]]:
  """Yields the function to report (done, total) to.

  What the first report says is done was done before; it does not count as speed.

  Args:
    unit: what is counted, in the singular.
    description: what is being done.
  """
  with contextlib.ExitStack() as stack:
    shown: list[Progress] = []

    def report(done: int, total: int) -> None:
      if shown:
        shown[0].update(done)
      else:
        progress = Progress(total, unit, description, initial=done)
        shown.append(stack.enter_context(progress))

    yield report
