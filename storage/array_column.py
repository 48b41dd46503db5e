"""Columns as Arrow arrays: those of rows that are answered at once, and what ops are called with."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .template import Gathered


def to_array(gathered: Gathered) -> Any:
    """Return what was gathered of a stored column as an Arrow array."""
    if not isinstance(gathered, tuple):
        if gathered.ndim == 1:
            return pa.array(gathered)
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(gathered))
    values, offsets = gathered
    items = pa.array(values.reshape(-1))
    if values.ndim > 1:
        items = pa.FixedSizeListArray.from_arrays(items, math.prod(values.shape[1:]))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items)


def from_array(array: Any) -> Gathered:
    """Return the rows of an Arrow array, none of which is missing, as a column gives them."""
    if isinstance(array, pa.FixedShapeTensorArray):
        return array.to_numpy_ndarray()
    if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
        return np.asarray(array)
    offsets = np.asarray(array.offsets, np.int64)
    return np.asarray(array.values)[offsets[0] : offsets[-1]], offsets - offsets[0]


def slice_rows(gathered: Gathered, begin: int, end: int) -> Gathered:
    """Return rows ``begin`` to ``end`` of what was gathered."""
    if not isinstance(gathered, tuple):
        return gathered[begin:end]
    values, offsets = gathered
    offsets = offsets[begin : end + 1]
    return values[offsets[0] : offsets[-1]], offsets - offsets[0]


def join_rows(parts: Sequence[Gathered]) -> Gathered:
    """Return the rows of some parts, at least one, one part after the other."""
    ragged = [part for part in parts if isinstance(part, tuple)]
    if not ragged:
        return np.concatenate(parts)
    lengths = [np.diff(offsets) for _, offsets in ragged]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
    return np.concatenate([values for values, _ in ragged]), offsets


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
