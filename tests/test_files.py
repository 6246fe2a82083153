"""A write that fails or is killed leaves the file as it was."""

import pathlib

import pytest

from mnv2_hpu import files


@pytest.mark.parametrize(("mode", "content"), [("w", "größer\n"), ("wb", b"\x00\xff")])
def test_writes_text_and_bytes(tmp_path, mode, content):
  with files.atomic_write(tmp_path / "file", mode) as file:
    file.write(content)
  path = tmp_path / "file"
  assert (path.read_text("utf-8") if mode == "w" else path.read_bytes()) == content
  assert list(tmp_path.iterdir()) == [path]


def test_an_error_keeps_the_earlier_file(tmp_path):
  path = tmp_path / "file"
  path.write_text("earlier")

  def fail_midway():
    with files.atomic_write(path) as file:
      file.write("half of it")
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    fail_midway()
  assert path.read_text() == "earlier"
  assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_left_is_overwritten(tmp_path):
  (tmp_path / f"file{files.TMP_SUFFIX}").write_text("half of an earlier one, long")
  with files.atomic_write(tmp_path / "file") as file:
    file.write("new")
  assert (tmp_path / "file").read_text() == "new"
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_scheme_is_written_through_tensorflow():
  tf = pytest.importorskip("tensorflow")
  with files.atomic_write("ram://folder/file") as file:
    file.write("text")
  assert tf.io.gfile.GFile("ram://folder/file").read() == "text"
  assert tf.io.gfile.listdir("ram://folder") == ["file"]


def test_a_folder_replaces_the_earlier_one_whole(tmp_path):
  for name in ("first", "second"):
    with files.atomic_folder(tmp_path / "new" / "folder") as folder:
      pathlib.Path(folder, name).touch()
  assert [path.name for path in tmp_path.glob("**/*")] == ["new", "folder", "second"]


def test_an_error_keeps_the_earlier_folder(tmp_path):
  (tmp_path / "folder").mkdir()
  (tmp_path / f".folder{files.TMP_SUFFIX}").mkdir()  # left by a killed write

  def fail_midway():
    with files.atomic_folder(tmp_path / "folder"):
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    fail_midway()
  assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_folder_of_the_users_with_a_like_name_is_left_alone(tmp_path):
  mine = tmp_path / "folder.tmp"
  mine.mkdir()
  (mine / "thesis").touch()
  with files.atomic_folder(tmp_path / "folder"):
    pass
  assert (mine / "thesis").exists()


def test_two_cannot_write_one_folder_at_a_time(tmp_path):
  with files.atomic_folder(tmp_path / "folder") as first:
    with open(f"{first}/file", "w") as file:
      file.write("first")
    with (
      pytest.raises(BlockingIOError, match="another process is writing it"),
      files.atomic_folder(tmp_path / "folder"),
    ):
      pass
  assert (tmp_path / "folder" / "file").read_text() == "first"


def test_what_a_kill_has_left_is_cleared(tmp_path):
  left = tmp_path / ".folder.tmp"
  left.mkdir()
  (left / "old").touch()
  with files.atomic_folder(tmp_path / "folder"):
    pass
  assert list((tmp_path / "folder").iterdir()) == []


def test_a_locked_folder_keeps_others_out_and_is_made(tmp_path):
  folder = tmp_path / "new" / "folder"
  with (
    files.locked_folder(folder),
    pytest.raises(BlockingIOError, match="another process is writing it"),
    files.locked_folder(folder),
  ):
    pass
  assert list(folder.iterdir()) == []


def test_an_error_leaves_no_folder_that_was_made_to_lock_it(tmp_path):
  def fail(folder, *written):
    with files.locked_folder(folder):
      for name in written:
        (folder / name).touch()
      raise ZeroDivisionError

  (tmp_path / "mine").mkdir()
  for name, written in (("new", ()), ("mine", ()), ("full", ("file",))):
    with pytest.raises(ZeroDivisionError):
      fail(tmp_path / name, *written)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "mine"]
