"""Online columns: computed from stored ones whenever they are read, and so anew in every pass.

What computes them is handed in, since storage knows no op: one function from what was gathered of the stored
columns to what documents hold. It must be a function of rows and passes alone, so that order, size of a call,
number of workers and where a run was resumed change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .template import Column, Gathered
from .tile import Ints


class Compute(Protocol):
    """What an online column is computed with."""

    @property
    def doing(self) -> str:
        """What it is at, for whoever waits for it; empty while it is not called."""
        ...

    def plan_lengths(
        self, lengths: Sequence[Ints], rows: Ints | None, passes: Ints | None
    ) -> Ints | None:
        """Return how long each row will be at most, None for what is dense.

        Args:
            lengths: Those of the rows in each stored column.
            rows: Global row of each; None with ``passes``.
            passes: The pass in which each is seen; None for a bound over all passes.
        """
        ...

    def __call__(self, gathered: Sequence[Gathered], rows: Ints, passes: Ints) -> Gathered:
        """Return what becomes of ``rows`` of the stored columns, each in one of ``passes``."""
        ...


@dataclass(eq=False)
class OnlineColumn:
    """A column that is computed when it is read.

    Attributes:
        inputs: The stored columns that it is computed from, at least one.
        compute: What computes it.
    """

    inputs: tuple[Column, ...]
    compute: Compute = field(repr=False)

    @property
    def num_rows(self) -> int:
        """Rows of the column, whatever their validity."""
        return self.inputs[0].num_rows

    @property
    def lengths(self) -> npt.NDArray[np.uint32]:
        """Most values that each row has in any pass, shape ``(num_rows,)``; 1 for what is dense."""
        return self._lengths

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which rows have a value: those that have one in every stored column, shape ``(num_rows,)``."""
        return self._valid

    @cached_property
    def _lengths(self) -> npt.NDArray[np.uint32]:
        stored = [column.lengths.astype(np.int64) for column in self.inputs]
        planned = self.compute.plan_lengths(stored, None, None)
        return (self.valid if planned is None else planned).astype(np.uint32)

    @cached_property
    def _valid(self) -> npt.NDArray[np.bool_]:
        return reduce(np.logical_and, (column.valid for column in self.inputs))

    def plan_lengths(self, rows: Ints, passes: Ints) -> Ints:
        """Return the most values that ``rows`` will have, each in its pass."""
        stored = [column.lengths[rows].astype(np.int64) for column in self.inputs]
        planned = self.compute.plan_lengths(stored, rows, passes)
        return self.valid[rows].astype(np.int64) if planned is None else planned

    def gather(self, rows: Ints, /) -> Gathered:
        """Return ``rows`` in the order given, as they are in the first pass."""
        return self.gather_in(rows, np.zeros(len(rows), np.int64))

    def gather_in(self, rows: Ints, passes: Ints) -> Gathered:
        """Return ``rows`` in the order given, each as it is in its pass."""
        return self.compute([column.gather(rows) for column in self.inputs], rows, passes)


def gather_rows(column: Column, rows: Ints, passes: Ints) -> Gathered:
    """Return ``rows`` of any column, each as it is in its pass."""
    if isinstance(column, OnlineColumn):
        return column.gather_in(rows, passes)
    return column.gather(rows)


def measure_rows(column: Column, rows: Ints, passes: Ints | None) -> Ints:
    """Return the lengths of ``rows`` of any column, of online ones in ``passes``; a bound over all if None."""
    if passes is not None and isinstance(column, OnlineColumn):
        return column.plan_lengths(rows, passes)
    return column.lengths[rows].astype(np.int64)


__all__ = ["Compute", "OnlineColumn", "gather_rows", "measure_rows"]
