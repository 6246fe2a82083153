"""small images made in code, good and bad."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed=0, height=24, width=36, channels=3):
  """A smooth uint8 image, so that JPEG keeps it well."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (4, 6, channels), dtype=np.uint8)
  mode = "RGB" if channels == 3 else "L"
  image = Image.fromarray(coarse if channels == 3 else coarse[..., 0], mode)
  return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image_format, values=None, mode=None, **options):
  """The image encoded by Pillow."""
  image = Image.fromarray(pixels() if values is None else values)
  if mode:
    image = image.convert(mode)
  buffer = io.BytesIO()
  image.save(buffer, image_format, **options)
  return buffer.getvalue()


def jpeg(seed=0, **options):
  return encoded("JPEG", pixels(seed), **options)


def png_16_bits_rgb(value=0x1234):
  """A 2x2 PNG of 16 bits per channel, which Pillow reads but cannot write."""

  def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

  header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
  row = b"\0" + struct.pack(">HHH", value, value, value) * 2
  parts = (
    (b"IHDR", header),
    (b"IDAT", zlib.compress(row * 2)),
    (b"IEND", b""),
  )
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def bomb_png(width=40_000, height=40_000):
  """A PNG of a few bytes whose header promises 1.6 billion pixels."""
  small = bytearray(encoded("PNG", mode="L"))
  small[16:24] = struct.pack(">II", width, height)
  small[29:33] = struct.pack(">I", zlib.crc32(bytes(small[12:29])))
  return bytes(small)


def write_folder(root, counts, seed=0):
  """Writes `counts[class]` different JPEGs per class; returns the folder."""
  for name, count in counts.items():
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
      seed += 1
      (folder / f"{index:03d}.jpg").write_bytes(jpeg(seed))
  return str(root)
