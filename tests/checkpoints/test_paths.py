import pytest
import tensorflow as tf

from mnv2_hpu.checkpoints.paths import find_checkpoint
from mnv2_hpu.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """A run of two checkpoints, in a folder whose name is also a pattern."""
  folder = tmp_path / "run [12]*"
  manager = tf.train.CheckpointManager(
    tf.train.Checkpoint(step=tf.Variable(1)), str(folder), max_to_keep=None
  )
  for step in (6, 12):
    manager.save(step)
  return folder


@pytest.mark.parametrize(
  "name", ["", "ckpt-12", "ckpt-12.index", "ckpt-12.data-00000-of-00001"]
)
def test_folder_prefix_and_file_name_the_same_checkpoint(folder, name):
  assert find_checkpoint(str(folder / name)) == str(folder / "ckpt-12")


def test_folder_that_was_moved_holds_its_newest_checkpoint(folder):
  moved = folder.rename(folder.parent / "moved")
  assert find_checkpoint(str(moved)) == str(moved / "ckpt-12")


def test_folder_without_checkpoint_lists_what_is_there(tmp_path):
  (tmp_path / "params.yaml").touch()
  with pytest.raises(UserError, match=r"no checkpoint. In it: params\.yaml"):
    find_checkpoint(str(tmp_path))
  with pytest.raises(UserError, match=r"ckpt-9\.index is missing.*params\.yaml"):
    find_checkpoint(str(tmp_path / "ckpt-9"))
  with pytest.raises(UserError, match="no such folder"):
    find_checkpoint(str(tmp_path / "missing" / "ckpt-9"))


@pytest.mark.parametrize("content", [None, "not a list"])
def test_folder_without_its_list_names_the_checkpoints(folder, content):
  (folder / "checkpoint").unlink()
  if content:
    (folder / "checkpoint").write_text(content)
  with pytest.raises(
    UserError, match=r"holds ckpt-6, ckpt-12, but its list .*Name one.*ckpt-12"
  ):
    find_checkpoint(str(folder))


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("weights.h5", "Keras weights in HDF5"),
    ("model.keras", "a Keras archive"),
    ("mobilenet_v2_1.0_224.tgz", "an archive, to be unpacked first"),
    ("mobilenet_v2_1.0_224.tar.gz", "an archive"),
    ("frozen.pb", "a TensorFlow graph"),
    ("model.pth", "a file of PyTorch's"),
  ],
)
def test_another_format_is_named(tmp_path, name, kind):
  (tmp_path / name).touch()
  with pytest.raises(UserError, match=rf"{name}' is {kind}.*a prefix such as"):
    find_checkpoint(str(tmp_path / name))


def test_a_folder_with_an_empty_list_names_what_is_there(folder):
  (folder / "checkpoint").write_text("")
  with pytest.raises(UserError, match="is missing or corrupt, so which is the newest"):
    find_checkpoint(str(folder))
