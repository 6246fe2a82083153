"""PASCAL VOC's annotation files: one XML for each image."""

import math
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

_SIDES = ("ymin", "xmin", "ymax", "xmax")


class XmlError(ValueError):
  """Bytes that are no annotation file; the message says why."""


class VocObject(NamedTuple):
  """One object.

  Attributes:
    name: Its class.
    box: ymin, xmin, ymax, xmax as the file has them; NaN where it has no number.
    difficult: Whether it is marked as difficult.
  """

  name: str
  box: tuple[float, ...]
  difficult: bool


class VocAnnotation(NamedTuple):
  """What a file annotates.

  Attributes:
    size: Height and width of the image; zeros where the file does not state them.
    objects: The objects, in the order of the file.
  """

  size: tuple[int, int]
  objects: list[VocObject]


def parse(data: bytes) -> VocAnnotation:
  """Parses an annotation file.

  A document type declaration is refused: entities that expand without end, or into
  other files, need one.

  Raises:
    XmlError: It is no whole XML, has a document type, or is not VOC's `annotation`.
  """
  root = _tree(data)
  if root.tag != "annotation":
    raise XmlError(f"its outermost element is {root.tag[:50]!r}, not 'annotation'")
  size = tuple(_integer(root.findtext(f"size/{side}")) for side in ("height", "width"))
  return VocAnnotation(
    size=(size[0], size[1]),
    objects=[_object(element) for element in root.findall("object")],
  )


def _tree(data: bytes) -> Element:
  builder = TreeBuilder()
  parser = expat.ParserCreate()
  parser.buffer_text = True
  parser.StartElementHandler = builder.start
  parser.EndElementHandler = builder.end
  parser.CharacterDataHandler = builder.data
  parser.StartDoctypeDeclHandler = _refuse_doctype
  try:
    parser.Parse(data, True)
    return builder.close()
  except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
    if isinstance(error, XmlError):
      raise
    raise XmlError(f"it is no whole XML: {error}") from error


def _refuse_doctype(*declaration: Any) -> None:
  raise XmlError(
    f"it declares a document type, {declaration[0][:50]!r}, which VOC's files never do"
  )


def _object(element: Element) -> VocObject:
  name = (element.findtext("name") or "").strip()
  if not name:
    raise XmlError("an object has no name")
  return VocObject(
    name=name,
    box=tuple(_number(element.findtext(f"bndbox/{side}")) for side in _SIDES),
    difficult=_number(element.findtext("difficult")) == 1,
  )


def _number(text: str | None) -> float:
  try:
    return float(text or "")
  except ValueError:
    return math.nan


def _integer(text: str | None) -> int:
  value = _number(text)
  return int(value) if math.isfinite(value) else 0
