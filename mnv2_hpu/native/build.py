"""Builds the operations in C++ for this machine: `python -m mnv2_hpu.native.build`.

Exit codes: 0 they are there, 3 there is no compiler, 1 anything else.
"""

import sys

from mnv2_hpu.errors import UserError
from mnv2_hpu.native import library


def main() -> int:
  """Builds them, tries to load them, and prints where they are."""
  try:
    path = library.build()
    library.load()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 3 if isinstance(error, library.NoCompilerError) else 1
  print(f"native operations: {path}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
