"""Small data sets in PASCAL VOC's folders, made in code."""

from pathlib import Path

import helpers_images

SIZE = (24, 36)  # what `helpers_images.jpeg` makes


def xml(*objects, size=SIZE, name="x.jpg"):
  """An annotation file; an object is (class, xmin, ymin, xmax, ymax[, difficult])."""
  parts = [
    f"<object><name>{o[0]}</name><pose>Left</pose>"
    f"<difficult>{o[5] if len(o) > 5 else 0}</difficult>"
    f"<bndbox><xmin>{o[1]}</xmin><ymin>{o[2]}</ymin><xmax>{o[3]}</xmax>"
    f"<ymax>{o[4]}</ymax></bndbox><part><name>head</name>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    "</object>"
    for o in objects
  ]
  return (
    f"<annotation><filename>{name}</filename><size><width>{size[1]}</width>"
    f"<height>{size[0]}</height><depth>3</depth></size>{''.join(parts)}</annotation>"
  ).encode()


def write(root, number=6, sets=None, classes=("dog", "car")):
  """Writes images with two boxes each; returns the folder."""
  for index in range(number):
    image = Path(root, "JPEGImages", f"2007_{index:06d}.jpg")
    annotation = Path(root, "Annotations", f"2007_{index:06d}.xml")
    made = xml(
      (classes[0], 5, 7, 14, 18), (classes[1], 1, 1, 36, 24, 1), name=image.name
    )
    for path, data in (image, helpers_images.jpeg(index)), (annotation, made):
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
  sets = {"train": range(4), "val": (4, 5)} if sets is None else sets
  for name, indices in sets.items():
    path = Path(root, "ImageSets/Main", f"{name}.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"2007_{index:06d}  1\n" for index in indices))
  return Path(root)
