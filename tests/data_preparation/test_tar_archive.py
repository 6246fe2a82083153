import io
import os
import tarfile

import helpers_imagenet
import pytest

from mnv2_hpu.data_preparation import tar_archive


def listed(path, data, **stretch):
  path.write_bytes(data)
  with path.open("rb") as file:
    return list(tar_archive.members(file.fileno(), **stretch))


def content(path, member):
  with path.open("rb") as file:
    return os.pread(file.fileno(), member.size, member.offset)


NAMES = {"plain.txt": b"a" * 700, "x" * 240 + "/é.txt": b"b", "empty": b""}


@pytest.mark.parametrize(
  "archive_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]
)
def test_members_lie_where_tarfile_finds_them(tmp_path, archive_format):
  members = dict(NAMES)
  if archive_format == tarfile.USTAR_FORMAT:
    members = {"short/" * 20 + "name": b"ustar's prefix", "second": b"2"}
  path = tmp_path / "a.tar"
  found = listed(path, helpers_imagenet.tar(members, format=archive_format))
  assert {m.name: content(path, m) for m in found} == members
  with tarfile.open(path) as archive:
    expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers()]
  assert [(m.name, m.offset, m.size) for m in found] == expected


def test_a_name_that_is_no_utf_8_is_kept(tmp_path):
  name = os.fsdecode(b"caf\xe9.jpg")
  data = helpers_imagenet.tar({name: b"x"}, format=tarfile.GNU_FORMAT)
  assert [m.name for m in listed(tmp_path / "a.tar", data)] == [name]


def test_an_archive_within_an_archive_is_read_in_place(tmp_path):
  path = tmp_path / "outer.tar"
  inner = helpers_imagenet.tar({"one": b"1" * 600, "two": b"22"})
  outer = listed(path, helpers_imagenet.tar({"first": b"x", "inner.tar": inner}))[1]
  end = outer.offset + outer.size
  found = listed(path, path.read_bytes(), start=outer.offset, end=end)
  assert [(m.name, content(path, m)) for m in found] == [
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
def test_members_that_are_no_plain_files_are_told(tmp_path, name, fields, problem):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    helpers_imagenet.add(archive, name, **fields)
    helpers_imagenet.add(archive, "good.JPEG", b"good")
  bad, good = listed(tmp_path / "a.tar", buffer.getvalue())
  assert (bad.name, bad.problem) == (name, problem)
  assert (good.name, good.problem) == ("good.JPEG", "")


WHOLE = helpers_imagenet.tar({"a": b"1" * 600, "b": b"2" * 600})


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (WHOLE[:100], "cut off: it ends at byte 100"),
    (WHOLE[:1000], "cut off: 'a' needs 112 bytes after byte 1000"),
    (WHOLE[: 512 + 1024], "cut off: it ends at byte 1536, without the mark of the end"),
    (WHOLE[: 1536 + 200], "cut off: it ends at byte 1736"),
    (WHOLE[: 1536 + 600], "cut off: 'b' needs"),
    (b"", "cut off"),
    (b"not a tar " * 200, "not a tar file, or a compressed one"),
    (WHOLE[:1536] + b"damage" + WHOLE[1542:], "damaged at byte 1536"),
  ],
)
def test_an_archive_that_is_not_whole_is_told_with_the_place(tmp_path, data, message):
  with pytest.raises(tar_archive.TarError, match=message):
    listed(tmp_path / "a.tar", data)


def test_a_damaged_extended_header_is_told(tmp_path):
  data = helpers_imagenet.tar({"x" * 300: b"1"}, format=tarfile.PAX_FORMAT)
  broken = data[:512] + b"9999 path=" + data[522:]
  with pytest.raises(tar_archive.TarError, match="damaged at byte 512"):
    listed(tmp_path / "a.tar", broken)
