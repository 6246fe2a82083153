"""Reads the lists of a JSON object element by element, in the memory of one.

COCO's `instances_train2017.json` has 448 MiB, most of it polygons that are not used
here; parsed at once it takes several GiB.
"""

import codecs
import json
from collections.abc import Collection, Iterator
from typing import IO, Any

_CHUNK = 1 << 20  # bytes read at a time
_MAX_VALUE = 1 << 26  # characters of one element


class JsonError(ValueError):
  """Bytes that are no such JSON; the message says what, and where."""


def elements(
  file: IO[bytes], lists: Collection[str], chunk: int = _CHUNK
) -> Iterator[tuple[str, Any]]:
  """Yields (key, element) of the lists that the object in a file holds, in file order.

  Args:
    file: Binary file; read once, from its position on.
    lists: Keys of the lists, each of which the object must have; others are not kept.
    chunk: Bytes to read at a time.

  Raises:
    JsonError: It is no JSON object, is cut off, or lacks one of the lists.
  """
  reader = _Reader(file, chunk)
  missing = set(lists)
  for key in reader.each_key():
    if key not in lists:
      reader.value()
      continue
    missing.discard(key)
    for element in reader.elements(key):
      yield key, element
  if missing:
    raise JsonError(f"has no {' and no '.join(map(repr, sorted(missing)))}")


class _Reader:
  """A file's text, a window of which is held."""

  def __init__(self, file: IO[bytes], chunk: int) -> None:
    self._file, self._chunk = file, chunk
    self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
    self._scan = json.JSONDecoder().raw_decode
    self._text, self._position, self._before, self._at_end = "", 0, 0, False

  def each_key(self) -> Iterator[str]:
    """Yields the keys of the outermost object; the caller reads the value of each."""
    if self._peek() != "{":
      raise JsonError("is not a JSON object, {…}")
    for _ in self._entries("{", "}"):
      key = self.value()
      if not isinstance(key, str) or self._peek() != ":":
        raise self._error("is no JSON")
      self._position += 1
      yield key
    if self._peek():
      raise self._error("goes on after its end")

  def elements(self, key: str) -> Iterator[Any]:
    """Yields the elements of a list."""
    if self._peek() != "[":
      raise self._error(f"has in {key!r} something other than a list")
    for _ in self._entries("[", "]"):
      yield self.value()

  def _entries(self, start: str, end: str) -> Iterator[None]:
    """Yields before each entry of an object or a list, at which it stands."""
    self._position += len(start)
    if self._peek() == end:
      self._position += 1
      return
    while True:
      yield
      separator = self._peek()
      self._position += 1
      if separator == end:
        return
      if separator != ",":
        raise self._error("is no JSON")

  def value(self) -> Any:
    """Returns the value that starts at the position, and goes behind it."""
    self._peek()
    while True:
      try:
        value, end = self._scan(self._text, self._position)
      except (ValueError, RecursionError) as error:
        if self._at_end or isinstance(error, RecursionError):
          raise self._error("is no JSON") from error
      else:
        # A number may go on in the next chunk.
        if end < len(self._text) or self._at_end:
          self._position = end
          return value
      if len(self._text) - self._position > _MAX_VALUE:
        raise self._error("is no JSON, or has an element without end")
      self._fill()

  def _peek(self) -> str:
    """Returns the next character that is no space; an empty string at the end."""
    while True:
      while self._position < len(self._text):
        character = self._text[self._position]
        if character not in " \t\r\n":
          return character
        self._position += 1
      if self._at_end:
        return ""
      self._fill()

  def _fill(self) -> None:
    """Reads on; twice as much at a time as is held, so that none is read often."""
    kept = self._text[self._position :]
    data = self._file.read(max(self._chunk, 2 * len(kept)))
    self._before += self._position
    self._at_end = not data
    try:
      self._text = kept + self._decoder.decode(data, final=self._at_end)
    except UnicodeDecodeError as error:
      raise JsonError(f"is no UTF-8 text: {error.reason}") from error
    self._position = 0

  def _error(self, problem: str) -> JsonError:
    if self._at_end and not self._text[self._position :].strip():
      return JsonError(
        f"is cut off after {self._before + len(self._text):,} characters"
      )
    return JsonError(f"{problem}, at character {self._before + self._position:,}")
