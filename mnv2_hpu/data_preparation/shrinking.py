"""Images larger than training needs, scaled down once instead of in every epoch."""

import dataclasses
import io

from PIL import Image

from mnv2_hpu.data_preparation.images import BadImageError, EncodedImage
from mnv2_hpu.errors import UserError

DEFAULT_QUALITY = 90
MIN_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Shrinking:
  """What is done to large images.

  Attributes:
    max_side: Pixels that the longer side keeps at most; 0 leaves all as they are.
    jpeg_quality: Quality of the scaled JPEGs, 1 to 95; 0 is `DEFAULT_QUALITY`.
  """

  max_side: int = 0
  jpeg_quality: int = 0

  @property
  def quality(self) -> int:
    """That of the scaled JPEGs; 0 where nothing is scaled."""
    return self.jpeg_quality or (DEFAULT_QUALITY if self.max_side else 0)

  def check(self, task: str) -> None:
    """Refuses values that mean nothing.

    Args:
      task: What is prepared; boxes and masks are not scaled with their images.

    Raises:
      UserError: Naming the flag and what is allowed.
    """
    if self.max_side and self.max_side < MIN_SIDE:
      raise UserError(
        f"--max_side={self.max_side}: allowed are {MIN_SIDE} pixels and more, or 0 to "
        "keep all images as they are."
      )
    if not 0 <= self.jpeg_quality <= 95:
      raise UserError(f"--jpeg_quality={self.jpeg_quality}: allowed are 1 to 95.")
    if self.jpeg_quality and not self.max_side:
      raise UserError(
        f"--jpeg_quality={self.jpeg_quality} is that of images which --max_side scales "
        "down. Give --max_side too."
      )
    if self.max_side and task != "classification":
      raise UserError(
        f"--max_side={self.max_side} scales images for classification; those of {task} "
        "are stored as they are. Leave it out."
      )


def shrink(stored: EncodedImage, shrinking: Shrinking) -> EncodedImage:
  """Returns an image with its longer side scaled down, its aspect ratio kept.

  A JPEG is decoded at an eighth, a quarter or a half where that is at least twice the
  size wanted, then averaged by Lanczos' filter. What is small enough is returned as it
  is, byte by byte.

  Args:
    stored: Image as it would be stored.
    shrinking: What is done to it.

  Raises:
    BadImageError: Its pixels cannot be decoded.
  """
  limit = shrinking.max_side
  if not limit or max(stored.height, stored.width) <= limit:
    return stored
  scale = limit / max(stored.height, stored.width)
  width, height = (max(1, round(n * scale)) for n in (stored.width, stored.height))
  buffer = io.BytesIO()
  try:
    with Image.open(io.BytesIO(stored.encoded)) as image:
      image.draft(image.mode, (2 * width, 2 * height))
      scaled = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2)
  except (OSError, SyntaxError, ValueError) as error:
    raise BadImageError(f"truncated or corrupt: {error}") from None
  quality = {"quality": shrinking.quality}
  scaled.save(buffer, stored.format, **(quality if stored.format == "JPEG" else {}))
  return dataclasses.replace(
    stored, encoded=buffer.getvalue(), height=height, width=width
  )
