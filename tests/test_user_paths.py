"""Paths as users write them."""

import os
from unittest import mock

import pytest

from mnv2_hpu import paths
from mnv2_hpu.configs.recipe import Recipe
from mnv2_hpu.errors import UserError


@pytest.mark.parametrize("path", ["data", "/data/train-*", "./~data", "a:b", "C:/data"])
def test_local_paths_stay(path):
  assert paths.resolve(path) == path
  assert paths.resolve(path, local=True) == path


def test_urls_of_tensorflow_stay_where_they_can_be_opened():
  assert paths.resolve("gs://bucket/data") == "gs://bucket/data"


@pytest.mark.parametrize(
  ("path", "local", "message"),
  [
    ("gs://bucket/data", True, "'gs://bucket/data' is a URL"),
    ("s3://bucket/data", False, "no file system for s3:// here, only for .*gs://"),
    ("~nobody-of-this-name/data", False, "a user that does not exist"),
    (" ", False, "the path is empty"),
  ],
)
def test_what_cannot_be_opened_is_refused(path, local, message):
  with pytest.raises(UserError, match=message):
    paths.resolve(path, local=local)


def test_a_new_folder_below_an_existing_one_can_be_written(tmp_path, monkeypatch):
  paths.check_writable(str(tmp_path / "new" / "folder"))
  monkeypatch.chdir(tmp_path)
  paths.check_writable("new")


def test_a_read_only_folder_is_refused(tmp_path):
  # Tests may run as root, to whom every folder is open.
  with (
    mock.patch.object(os, "access", return_value=False),
    pytest.raises(UserError, match="above it is read-only"),
  ):
    paths.check_writable(str(tmp_path / "new"))


@pytest.mark.parametrize("field", ["data_dir", "init_checkpoint"])
def test_paths_in_gin_are_resolved_too(field, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  values = {"data_dir": "data", field: "~/x"}
  assert getattr(Recipe(**values), field) == f"{tmp_path}/x"
  with pytest.raises(UserError, match=f"^{field}=s3://bucket/x: .* no file system"):
    Recipe(**{**values, field: "s3://bucket/x"})
