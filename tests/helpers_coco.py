"""Small data sets in COCO's format, made in code."""

import json
import zipfile
import zlib
from pathlib import Path

import helpers_images

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]
HEIGHT, WIDTH = 24, 36  # what `helpers_images.jpeg` makes


def image(identity, **changes):
  """An entry of `images`, the file of which is `<identity>.jpg`."""
  name = f"{identity:03d}.jpg" if isinstance(identity, int) else f"{identity}.jpg"
  size = {"height": HEIGHT, "width": WIDTH}
  return {"id": identity, "file_name": name, **size, **changes}


def box(identity, image_id, bbox=(4, 6, 10, 12), category=18, **changes):
  """An entry of `annotations`; `bbox` is x, y, width, height."""
  entry = {"id": identity, "image_id": image_id, "category_id": category}
  area = {"area": 77.0, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]}
  return {**entry, "bbox": list(bbox), **area, **changes}


def content(num_images=12, annotations=None, first=1, **changes):
  """An annotation file: two boxes in each image, one of each class."""
  ids = range(first, first + num_images)
  if annotations is None:
    annotations = [
      box(2 * i + k, i, (4 + k, 6, 10 + i % 5, 12), CATEGORIES[k]["id"])
      for i in ids
      for k in range(2)
    ]
  images = [image(i) for i in ids]
  made = {"info": {"year": 2017}, "licenses": [], "images": images}
  return {**made, "annotations": annotations, "categories": CATEGORIES, **changes}


def write_images(folder, made):
  """Writes the images that an annotation file lists."""
  for entry in made["images"]:
    path = Path(folder, entry["file_name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(helpers_images.jpeg(zlib.crc32(entry["file_name"].encode())))


def write(root, train=None, validation=None, year="2017"):
  """Writes COCO's own layout; returns its folder."""
  splits = {"train": train or content(), "val": validation or content(4, first=101)}
  for split, made in splits.items():
    write_json(Path(root, "annotations", f"instances_{split}{year}.json"), made)
    write_images(Path(root, f"{split}{year}"), made)
  return str(root)


def write_json(path, made):
  """Writes an annotation file, or bytes in its place."""
  path.parent.mkdir(parents=True, exist_ok=True)
  data = made if isinstance(made, bytes) else json.dumps(made).encode()
  path.write_bytes(data)


def zip_folder(root, archive, *folders, method=zipfile.ZIP_STORED):
  """Replaces folders by a zip file of them, as COCO offers them."""
  with zipfile.ZipFile(Path(root, archive), "w", method) as made:
    for folder in folders:
      made.mkdir(folder) if hasattr(made, "mkdir") else made.writestr(f"{folder}/", b"")
      for path in sorted(Path(root, folder).iterdir()):
        made.write(path, f"{folder}/{path.name}")
        path.unlink()
      Path(root, folder).rmdir()
