"""What to know of a set's images that went in as they are asked for, and look wrong."""

from collections import defaultdict
from collections.abc import Mapping

_MAX_NAMES = 10
_MIN_UNUSED_BITS = 2  # that make a class a quarter as bright as it could be, or less


def image_warnings(
  num_oriented: int, bits_used: Mapping[str, int], significant_bits: int
) -> list[str]:
  """Returns a line for each kind of images that people should look at.

  Args:
    num_oriented: Images with an EXIF orientation other than upright.
    bits_used: Bits of the largest sample in the 16-bit images of each class that has
      any, by the class's name.
    significant_bits: What their samples were scaled by.

  >>> for line in image_warnings(3, {"ant": 12, "bee": 10}, 16):
  ...   print(line[:66])
  3 images have an EXIF orientation, which is ignored: no decoder in
  16-bit images of 'bee' use 10 bits of 16: their pixels are at most
  16-bit images of 'ant' use 12 bits of 16: their pixels are at most
  """
  lines = []
  if num_oriented:
    lines.append(
      f"{num_oriented:,} images have an EXIF orientation, which is ignored: no decoder "
      "in an export reads it. To train and serve them upright, rotate the files "
      "(exiftran -ai, mogrify -auto-orient) and prepare again."
    )
  names = defaultdict(list)
  for name, bits in bits_used.items():
    names[bits].append(name)
  largest = max(bits_used.values(), default=0)
  for bits in sorted(names):
    shown = ", ".join(map(repr, names[bits][:_MAX_NAMES]))
    if len(names[bits]) > _MAX_NAMES:
      shown += f" and {len(names[bits]) - _MAX_NAMES} more classes"
    start = f"16-bit images of {shown} use {bits} bits of {significant_bits}"
    if bits > significant_bits:
      lines.append(f"{start}: what exceeds them is white. {_advice(largest)}")
    elif bits <= significant_bits - _MIN_UNUSED_BITS:
      reach = (1 << bits) - 1 >> significant_bits - 8
      lines.append(
        f"{start}: their pixels are at most {reach} of 255. {_advice(largest)}"
      )
  return lines


def _advice(largest: int) -> str:
  if largest < 16:
    return f"--significant_bits={max(largest, 8)} suits the whole set, and is exported."
  return "Other images use all 16, so no one scale suits the set: convert these files."
