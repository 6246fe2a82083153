import pytest

from mnv2_hpu.data_preparation.summary import image_warnings


@pytest.mark.parametrize(
  ("bits_used", "significant_bits", "expected"),
  [
    ({}, 16, []),
    ({"ant": 16, "bee": 15}, 16, []),  # a half as bright: a dark image may be that
    (
      {"ant": 12, "bee": 10, "cat": 12},
      16,
      [
        "16-bit images of 'bee' use 10 bits of 16: their pixels are at most 3 of 255. "
        "--significant_bits=12 suits the whole set, and is exported.",
        "16-bit images of 'ant', 'cat' use 12 bits of 16: their pixels are at most 15 "
        "of 255. --significant_bits=12 suits the whole set, and is exported.",
      ],
    ),
    (
      {"ant": 12, "bee": 16},
      16,
      [
        "16-bit images of 'ant' use 12 bits of 16: their pixels are at most 15 of 255. "
        "Others use all 16, so no one scale suits the set: convert these files."
      ],
    ),
    (
      {"ant": 12},
      10,
      [
        "16-bit images of 'ant' use 12 bits of 10: what exceeds them is white. "
        "--significant_bits=12 suits the whole set, and is exported."
      ],
    ),
  ],
)
def test_classes_whose_16_bit_images_look_wrong_are_named(
  bits_used, significant_bits, expected
):
  assert image_warnings(0, bits_used, significant_bits) == expected


def test_of_many_classes_the_first_are_named():
  (line,) = image_warnings(0, {f"class {i}": 12 for i in range(30)}, 16)
  assert "'class 9' and 20 more use 12 bits" in line
