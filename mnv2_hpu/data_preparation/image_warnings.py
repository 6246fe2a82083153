"""What to know of images that were prepared as requested, and may look wrong."""

from collections.abc import Mapping

_MIN_UNUSED_BITS = 2  # leave a class a quarter as bright as it could be, or less
_MAX_NAMES = 10


def image_warnings(
  num_oriented: int, bits_used: Mapping[str, int], significant_bits: int
) -> list[str]:
  """Returns a line for each kind of images that people should look at.

  Args:
    num_oriented: Images with an EXIF orientation other than upright.
    bits_used: Bits of the largest sample in the 16-bit images of a class, by its name.
    significant_bits: Bits that these images were scaled by.
  """
  lines = []
  if num_oriented:
    lines.append(
      f"{num_oriented:,} images have an EXIF orientation, which is ignored: no decoder "
      "in an export reads it. To train and serve them upright, rotate the files "
      "(exiftran -ai, mogrify -auto-orient) and prepare again."
    )
  largest = max([8, *bits_used.values()])
  advice = (
    f"--significant_bits={largest} suits the whole set, and is exported."
    if largest < 16
    else "Others use all 16, so no one scale suits the set: convert these files."
  )
  for bits in sorted(set(bits_used.values())):
    names = [name for name in bits_used if bits_used[name] == bits]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    classes = ", ".join(map(repr, names[:_MAX_NAMES])) + more
    start = f"16-bit images of {classes} use {bits} bits of {significant_bits}"
    if bits > significant_bits:
      lines.append(f"{start}: what exceeds them is white. {advice}")
    elif bits <= significant_bits - _MIN_UNUSED_BITS:
      brightest = (1 << bits) - 1 >> significant_bits - 8
      lines.append(f"{start}: their pixels are at most {brightest} of 255. {advice}")
  return lines
