"""Mistakes of the user: reported as one clear message, without a traceback."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
  """Something the user can fix: what, the value received, what is allowed, next step.

  The drivers print its message and exit with code 1.
  """


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
  """Returns a hint that names the nearest candidates, or the allowed ones if few.

  >>> did_you_mean("lerning_rate", ["learning_rate", "momentum"])
  "Did you mean 'learning_rate'?"
  >>> did_you_mean("zzz", ["a", "b"])
  'Allowed: a, b.'
  """
  known = sorted(set(candidates))
  near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
  if near:
    return f"Did you mean {' or '.join(repr(n) for n in near)}?"
  return f"Allowed: {shorten(known, max_items=20)}."


def shorten(names: Sequence[str], max_items: int = 10) -> str:
  """Returns the first names, and how many more there are.

  >>> shorten(["a", "b", "c"], max_items=2)
  'a, b and 1 more'
  """
  more = f" and {len(names) - max_items} more" if len(names) > max_items else ""
  return ", ".join(names[:max_items]) + more


def counted(number: int, noun: str) -> str:
  """Returns a number with a noun in the right number.

  >>> counted(1, "shard"), counted(1024, "shard"), counted(2, "process")
  ('1 shard', '1,024 shards', '2 processes')
  >>> counted(1, "box"), counted(2, "box")
  ('1 box', '2 boxes')
  """
  ending = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
  return f"{number:,} {noun}{ending}"
