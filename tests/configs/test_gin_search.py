import os

import gin
import pytest

from mnv2_hpu.configs import gin_files
from mnv2_hpu.errors import UserError


def test_shipped_files_are_listed():
  assert {"digits.gin", "imagenet.gin", "plugin.gin"} <= set(gin_files.names())
  assert all(os.path.isfile(gin_files.path(name)) for name in gin_files.names())


def test_both_spellings_are_the_same_file():
  assert gin_files.path("gin/digits.gin") == gin_files.path("digits.gin")


def test_unknown_name_gets_a_hint():
  with pytest.raises(UserError, match=r"Did you mean 'digits\.gin'"):
    gin_files.path("digit.gin")


@pytest.fixture
def _no_bindings():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.mark.usefixtures("_no_bindings")
@pytest.mark.parametrize("name", ["imagenet.gin", "gin/imagenet.gin"])
def test_gin_finds_shipped_files_from_anywhere(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  gin_files.add_search_path()

  gin.parse_config_file(name)

  assert gin.query_parameter("mobilenet_v2_classification.num_classes") == 1001


@pytest.mark.usefixtures("_no_bindings")
@pytest.mark.parametrize(
  ("bindings", "fails"),
  [
    (["DATADIR = '/data'"], True),
    (["DATA_DIR = '/data'"], False),
    # Read by nothing, but no other's name misspelt.
    (["EPOCHS = 3"], False),
    (["mobilenet_v2_classification.data_dir = '/data'"], False),
  ],
)
def test_misspelt_macro_with_a_default_is_refused(bindings, fails):
  gin_files.add_search_path()
  gin_files.install_macro_check()
  gin.parse_config_file("digits.gin")
  gin.parse_config(bindings)
  if not fails:
    gin.finalize()
    return
  with pytest.raises(UserError, match=r"'DATADIR'\. Did you mean 'DATA_DIR'"):
    gin.finalize()
