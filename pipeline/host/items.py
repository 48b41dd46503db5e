"""Items: the rows that an op makes of rows, and how they become values of those rows again."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Items:
    """The rows that an op has made of the rows of another set.

    Attributes:
        offsets: Where the items of each row begin, and where the last end.
        is_whole: Which rows could be expanded.
    """

    offsets: npt.NDArray[np.int64]
    is_whole: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, lists: pa.Array) -> Self:
        """Return the items of ``lists``, one list for each row."""
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
        is_whole = np.asarray(lists.is_valid())
        return cls(np.concatenate([[0], np.cumsum(lengths)]), is_whole)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def find_row(self, item: int) -> int:
        """Return the row that ``item`` was made of."""
        return int(np.searchsorted(self.offsets, item, side="right")) - 1

    def regroup(self, values: Sequence[Any]) -> list[list[Any] | None]:
        """Return the values of each row's items, None for rows that could not be expanded."""
        ends = pairwise(self.offsets.tolist())
        lists = (list(values[start:stop]) for start, stop in ends)
        return [
            each if is_whole else None
            for each, is_whole in zip(lists, self.is_whole.tolist(), strict=True)
        ]

    def repeat(self, values: pa.Array) -> pa.Array:
        """Return the value of each item's row."""
        rows = np.repeat(np.arange(len(self.is_whole)), np.diff(self.offsets))
        return take_nullable(values, pa.array(rows, pa.int64()))

    def gather(self, values: pa.Array) -> pa.Array:
        """Return the items of each row as a list, null for rows that could not be expanded."""
        offsets = pa.array(self.offsets, pa.int64())
        lists = pa.LargeListArray.from_arrays(offsets, values)
        return pc.if_else(pa.array(self.is_whole), lists, pa.scalar(None, lists.type))


def take_nullable(array: pa.Array, indices: pa.Array) -> pa.Array:
    """Return the values at ``indices``, missing where an index is; extension types stay what they are."""
    if isinstance(array, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(array.type, array.storage.take(indices))
    return array.take(indices)
