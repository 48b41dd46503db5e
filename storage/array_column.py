"""Columns that are Arrow arrays, for rows that are answered at once and never stored."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .template import Gathered


@dataclass(frozen=True, slots=True)
class ArrayColumn:
    """An Arrow array as a column: lists are ragged, fixed-shape tensors dense.

    Attributes:
        array: One value a row; null where there is none.
    """

    array: Any

    @property
    def num_rows(self) -> int:
        """Rows of the column, whatever their validity."""
        return len(self.array)

    @property
    def lengths(self) -> npt.NDArray[np.uint32]:
        """Values in each row of a ragged column; 1 for dense ones, 0 for missing rows."""
        if pa.types.is_list(self.array.type):
            return np.asarray(pc.list_value_length(self.array).fill_null(0), np.uint32)
        return self.valid.astype(np.uint32)

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which rows have a value."""
        return np.asarray(self.array.is_valid())

    def gather(self, rows: npt.NDArray[np.int64], /) -> Gathered:
        """Return ``rows`` in the order given."""
        indices = pa.array(rows)
        if isinstance(self.array, pa.FixedShapeTensorArray):
            taken = self.array.storage.take(indices)
            return np.asarray(taken.flatten()).reshape(len(rows), *self.array.type.shape)
        taken = self.array.take(indices)
        if not pa.types.is_list(self.array.type):
            return np.asarray(taken.fill_null(0))
        return np.asarray(taken.flatten()), np.asarray(taken.offsets, np.int64)
