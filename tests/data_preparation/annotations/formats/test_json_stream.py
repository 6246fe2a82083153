import io
import json

import pytest

from mnv2_hpu.data_preparation.annotations.formats import json_stream

CONTENT = {
  "info": {"lists": [[], [1, [2]]], "text": 'a "quoted" [ } \\ é'},
  "a": [{"x": 1.5}, 12, -3e7, None, "é\u0000", [], {}],
  "empty": [],
  "b": [[1, 2], {"deep": {"er": [True]}}],
  "last": 5,
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_elements_are_those_of_json(chunk, indent, ascii_only):
  text = json.dumps(CONTENT, indent=indent, ensure_ascii=ascii_only)
  file = io.BytesIO(b"\xef\xbb\xbf" + text.encode())
  found = {"a": [], "b": [], "empty": []}
  for key, element in json_stream.elements(file, found, chunk):
    found[key].append(element)
  assert found == {key: CONTENT[key] for key in found}


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_every_cut_is_noticed(chunk):
  data = json.dumps(CONTENT).encode()
  for end in range(len(data)):
    with pytest.raises(json_stream.JsonError):
      list(json_stream.elements(io.BytesIO(data[:end]), ["a"], chunk))


@pytest.mark.parametrize(
  "text",
  ["{'a': []}", '{"a" []}', '{"a": [1 2]}', '{"a": [1,]}', '{"a": [1}', '{a: 1}', '{,}',
   '{"a": [01]}', '{"a": [1], }', '{1: [1]}', '{"a": [1]}]'],
)  # fmt: skip
def test_what_is_no_json_is_refused(text):
  with pytest.raises(json_stream.JsonError):
    list(json_stream.elements(io.BytesIO(text.encode()), ["a"]))


class Generated(io.RawIOBase):
  """A file of 40 million characters that nobody has to hold."""

  def __init__(self, size):
    self.left = size
    self.started = False

  def read(self, size=-1):
    if not self.started:
      self.started = True
      return b'{"a": [0'
    if self.left <= 0:
      return b""
    self.left -= size
    entry = b',"%s"' % (b"x" * 997)
    return entry * (size // len(entry)) + (b"]}" if self.left <= 0 else b"")


def test_memory_is_that_of_an_element():
  import tracemalloc

  tracemalloc.start()
  count = sum(1 for _ in json_stream.elements(Generated(40 << 20), ["a"]))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert count > 40_000
  assert peak < 16 << 20
