import io
import os
import tarfile

import helpers_imagenet
import pytest

from mnv2_hpu.data_preparation import tar_archive


def listed(data, **byte_range):
  return list(tar_archive.members(io.BytesIO(data), **byte_range))


def content(data, member):
  return data[member.offset_data :][: member.size]


NAMES = {"plain.txt": b"a" * 700, "x" * 240 + "/é.txt": b"b", "empty": b""}


@pytest.mark.parametrize(
  "archive_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]
)
def test_members_are_found_with_their_content(archive_format):
  members = dict(NAMES)
  if archive_format == tarfile.USTAR_FORMAT:
    members = {"short/" * 20 + "name": b"ustar's prefix", "second": b"2"}
  data = helpers_imagenet.tar(members, format=archive_format)
  assert {m.name: content(data, m) for m in listed(data)} == members


def test_a_name_that_is_no_utf_8_is_kept():
  name = os.fsdecode(b"caf\xe9.jpg")
  data = helpers_imagenet.tar({name: b"x"}, format=tarfile.GNU_FORMAT)
  assert [m.name for m in listed(data)] == [name]


def test_an_archive_within_an_archive_is_read_in_place():
  inner = helpers_imagenet.tar({"one": b"1" * 600, "two": b"22"})
  data = helpers_imagenet.tar({"first": b"x", "inner.tar": inner})
  outer = listed(data)[1]
  end = outer.offset_data + outer.size
  found = listed(data, start=outer.offset_data, end=end)
  assert [(m.name, content(data, m)) for m in found] == [
    ("one", b"1" * 600),
    ("two", b"22"),
  ]


@pytest.mark.parametrize(
  ("name", "fields", "problem"),
  [
    ("../x.JPEG", {}, "its name leads out of the archive"),
    ("a/../../x.JPEG", {}, "its name leads out of the archive"),
    ("/etc/x.JPEG", {}, "its name leads out of the archive"),
    (
      "x.JPEG",
      {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
      "a link to '/etc/passwd', not a file",
    ),
    (
      "x.JPEG",
      {"type": tarfile.LNKTYPE, "linkname": "a.JPEG"},
      "a link to 'a.JPEG', not a file",
    ),
    ("x.JPEG", {"type": tarfile.FIFOTYPE}, "not a regular file"),
    ("x.JPEG", {"type": tarfile.CHRTYPE}, "not a regular file"),
  ],
)
def test_the_problem_of_a_member_that_is_no_plain_file(name, fields, problem):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    helpers_imagenet.add(archive, name, **fields)
    helpers_imagenet.add(archive, "good.JPEG", b"good")
  bad, good = listed(buffer.getvalue())
  assert (bad.name, tar_archive.find_problem(bad)) == (name, problem)
  assert (good.name, tar_archive.find_problem(good)) == ("good.JPEG", "")


WHOLE = helpers_imagenet.tar({"a": b"1" * 600, "b": b"2" * 600})
FIRST, REST = WHOLE[:1536], WHOLE[1536:]  # after the member `a`


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (WHOLE[:100], "cut off: it ends at byte 100"),
    (WHOLE[:1000], "cut off: 'a' needs 112 bytes after byte 1000"),
    (FIRST, "cut off: it ends at byte 1536, without the end marker"),
    (WHOLE[: 1536 + 200], "cut off: it ends at byte 1736"),
    (WHOLE[: 1536 + 600], "cut off: 'b' needs"),
    (b"", "cut off"),
    (b"not a tar " * 200, "not a tar file, or a compressed one"),
    (FIRST + b"broken" + REST[6:], "corrupt at byte 1536"),
  ],
)
def test_where_an_archive_is_not_whole(data, message):
  with pytest.raises(tar_archive.TarError, match=message):
    listed(data)


def header(size, kind=tarfile.REGTYPE):
  """A header with whatever size, in base 256 if it is negative."""
  block = bytearray(tarfile.TarInfo("x").tobuf())
  encoded = (size % (1 << 88)).to_bytes(11, "big")
  block[124:136] = b"\xff" + encoded if size < 0 else b"%011o\0" % size
  block[156:157] = kind
  block[148:156] = b" " * 8
  block[148:156] = b"%06o\0 " % sum(block)
  return bytes(block)


def pax(records, kind=tarfile.XHDTYPE):
  """An extended header, padded."""
  return header(len(records), kind) + records.ljust(512, b"\0")


END = bytes(1024)
SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
HOSTILE = {
  "a negative size": header(-1536) + END,
  "less than a block": header(-100) + END,
  "a negative size of a folder": header(-1536, tarfile.DIRTYPE) + END,
  "a negative size of a link": header(-1536, tarfile.SYMTYPE) + END,
  "a negative size of an unknown kind": header(-1536, b"Z") + END,
  "a negative size in a PAX record": pax(b"14 size=-1536\n") + header(0) + END,
  "no number in a PAX record": pax(b"12 size=abc\n") + header(0) + END,
  "a number of 5,000 digits": header(5006, tarfile.XHDTYPE)
  + (b"9" * 5000 + b" a=b\n").ljust(5120, b"\0")
  + b"no header".ljust(1024),
  "a name longer than its header": pax(b"9999 path=a\n") + header(0) + END,
  "a size for all that follow": pax(b"13 size=-512\n", tarfile.XGLTYPE) + REST,
  "an extended header of negative size": header(-1536, tarfile.XHDTYPE) + END,
  "an extended header of 1 GiB": header(1 << 30, tarfile.XHDTYPE) + END,
  "900 extended headers": pax(b"13 comment=a\n") * 900 + header(0) + END,
  "a sparse map without end": pax(SPARSE) + header(512) + b"9999\n".ljust(512, b"1"),
  "a sparse map without lines": pax(SPARSE) + header(0) + END,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("before", [b"", FIRST])
def test_every_hostile_archive_ends(name, before):
  start = 512  # as of an archive within an archive
  with pytest.raises(tar_archive.TarError, match=r"corrupt|not a tar|cut off"):
    listed(bytes(start) + before + HOSTILE[name], start=start)
