"""ImageNet's archives in small, made in code."""

import io
import tarfile
from pathlib import Path

import helpers_images

SYNSETS = ["n01440764", "n01443537", "n02119789"]
# In the order of the images' names; not in that of the synsets.
VALIDATION = [SYNSETS[i] for i in (2, 0, 1, 0, 2, 1)]


def add(archive, name, data=b"", **fields):
  """Adds a member with whatever header."""
  member = tarfile.TarInfo(name)
  member.size = len(data)
  for field, value in fields.items():
    setattr(member, field, value)
  archive.addfile(member, io.BytesIO(data))


def tar(members, **options):
  """A tar of {name: bytes}."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
    for name, data in members.items():
      add(archive, name, data)
  return buffer.getvalue()


def train_images(per_class=4):
  """{synset: {name: JPEG}}."""
  return {
    synset: {
      f"{synset}_{i}.JPEG": helpers_images.jpeg(100 * label + i)
      for i in range(per_class)
    }
    for label, synset in enumerate(SYNSETS)
  }


def validation_images():
  """{name: JPEG}."""
  names = [f"ILSVRC2012_val_{i:08d}" for i in range(1, len(VALIDATION) + 1)]
  return {f"{name}.JPEG": helpers_images.jpeg(9000 + i) for i, name in enumerate(names)}


def write_archives(root, train=None, validation=None, labels=None):
  """Writes the three files that people download; the inner tars in reversed order."""
  root = Path(root)
  root.mkdir(parents=True, exist_ok=True)
  classes = train_images() if train is None else train
  inner = {f"{name}.tar": tar(files) for name, files in reversed(classes.items())}
  (root / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
  images = validation_images() if validation is None else validation
  (root / "ILSVRC2012_img_val.tar").write_bytes(tar(images))
  lines = VALIDATION if labels is None else labels
  path = root / "imagenet_2012_validation_synset_labels.txt"
  path.write_text("".join(f"{synset}\n" for synset in lines))
  return root


def write_folders(root, by_synset):
  """Writes the same images extracted, the validation split flat or by synset."""
  root = Path(root)
  for synset, files in train_images().items():
    for name, data in files.items():
      _write(root / "train" / synset / name, data)
  for synset, (name, data) in zip(VALIDATION, validation_images().items(), strict=True):
    folder = root / "val" / synset if by_synset else root / "val"
    _write(folder / name, data)
  return root


def _write(path, data):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data)
