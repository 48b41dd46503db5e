"""Weigh: how many bytes a row of a column takes.

Dense numbers say it by their type, to the byte. What varies by row is guessed from its type, coarsely, and
every guess is marked: ``~64 bytes``. A store that has the column knows better, and its figure takes the
guess's place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..render.quantity import write_bytes
from ..type import Layout, Type

# Bytes of one element whose dtype does not say: a sentence, a photograph.
_GUESSED_BYTES: Final[Mapping[str, int]] = {"string": 64, "binary": 100_000, "any": 1_000}
# Elements along a dimension that varies by row.
_GUESSED_SIZES: Final[Mapping[str, int]] = {"H": 480, "W": 640}
_GUESSED_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a column.

    Attributes:
        row_bytes: Bytes of a row, on average.
        is_exact: Whether that is known rather than guessed.
    """

    row_bytes: float
    is_exact: bool

    def tell(self, dtype: str, num_rows: int | None = None) -> str:
        """Return the size in words, with that of ``num_rows`` rows where they are known."""
        mark = "" if self.is_exact else "~"
        number = f"{self.row_bytes:,.0f}"
        told = f"{mark}{number} byte{'s' * (number != '1')} a row as {dtype}"
        if num_rows is None:
            return told
        return f"{told}, {mark}{write_bytes(self.row_bytes * num_rows)} in {num_rows:,} rows"


def weigh(type_: Type) -> Size:
    """Return what a row of ``type_`` takes, as far as its type says."""
    named = [axis for axis in type_.shape if isinstance(axis, str)]
    fixed = math.prod(axis for axis in type_.shape if isinstance(axis, int))
    guessed = math.prod(_GUESSED_SIZES.get(axis, _GUESSED_SIZE) for axis in named)
    element = _element_bytes(type_.dtype)
    is_exact = not named and element is not None and type_.layout in (Layout.DENSE, Layout.SCALAR)
    if element is None:
        element = _GUESSED_BYTES.get(type_.dtype.removeprefix("large_"), _GUESSED_BYTES["any"])
    return Size(fixed * guessed * element, is_exact)


def _element_bytes(dtype: str) -> int | None:
    """Return the bytes of a number, None for other types."""
    name = dtype.rstrip("0123456789")
    if name in ("int", "uint", "float", "bfloat"):
        return int(dtype[len(name) :]) // 8
    return {"bool": 1, "half": 2, "halffloat": 2, "double": 8}.get(dtype)
