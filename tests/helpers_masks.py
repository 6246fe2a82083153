"""Small images with label masks, made in code."""

import io
import struct
import zlib
from pathlib import Path

import helpers_images
import numpy as np
from PIL import Image

LABEL_NAMES = ["background", "cat", "dog"]
SIZE = (24, 36)  # what `helpers_images.jpeg` makes


def labels(seed=0, size=SIZE, num_classes=3):
  """Blocks of labels, with an ignored frame; uint8 `[height, width]`."""
  rng = np.random.default_rng(seed)
  blocks = rng.integers(0, num_classes, (3, 4)).astype(np.uint8)
  image = Image.fromarray(blocks).resize(size[::-1], Image.Resampling.NEAREST)
  made = np.array(image)
  made[:2] = 255
  return made


def png(values, mode=None):
  """A PNG of labels: gray, or of mode `P` with VOC's way of a palette."""
  image = Image.fromarray(values)
  if mode == "P":
    image.putpalette([(i * 37 + c * 91) % 256 for i in range(256) for c in range(3)])
  elif mode:
    image = image.convert(mode)
  buffer = io.BytesIO()
  image.save(buffer, "PNG")
  return buffer.getvalue()


def gray_png(values, bits):
  """A gray PNG of 1, 2, 4 or 16 bits a pixel, some of which Pillow cannot write."""

  def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

  height, width = values.shape
  rows = b""
  for row in values:
    digits = "".join(f"{value:0{bits}b}" for value in row)
    digits += "0" * (-len(digits) % 8)
    rows += b"\0" + int(digits, 2).to_bytes(len(digits) // 8, "big")
  header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
  parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def write(root, split="", number=8, first=0, mode=None):
  """Writes images and their masks, and the names of the classes; returns the folder."""
  for index in range(first, first + number):
    image = Path(root, "images", split, f"{index:03d}.jpg")
    mask = Path(root, "masks", split, f"{index:03d}.png")
    for path, data in (
      (image, helpers_images.jpeg(index)),
      (mask, png(labels(index), mode)),
    ):
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
  Path(root, "classes.txt").write_text("\n".join(LABEL_NAMES) + "\n")
  return Path(root)
