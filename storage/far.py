"""Columns behind a URL: the values of a partition are fetched when rows of it are asked for.

A few partitions are open at a time, those used last. The loader takes rows of many partitions in one go, so
they are gathered partition by partition and then put in order.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .body import Blocks, DamagedRowError, Gathered
from .memory import Ints


class Part(Protocol):
    """One partition that is open."""

    def gather(self, rows: Ints, /) -> Gathered:
        """Return the values of ``rows``."""
        ...

    def take(self, rows: Ints) -> Any:
        """Return ``rows`` as an Arrow array."""
        ...


class FarBody:
    """The values of partitions, of which those used last are open."""

    def __init__(
        self, blocks: Blocks, sizes: Sequence[int], limit: int, open_part: Callable[[int], Part]
    ) -> None:
        """Open nothing yet.

        Args:
            blocks: Rows of the partitions, none of them empty.
            sizes: Bytes of each.
            limit: Most bytes to hold open, beside the partition used last.
            open_part: Opens a partition.
        """
        self._blocks = blocks
        self._sizes = sizes
        self._limit = limit
        self._open_part = open_part
        self._open: OrderedDict[int, Part] = OrderedDict()
        self._lock = threading.Lock()

    def gather(self, rows: Ints) -> Gathered:
        """Return the values of ``rows``."""
        where, found = self._ask(rows, lambda part, positions: part.gather(positions))
        if isinstance(found[0], tuple):
            return _join_ragged(where, found)
        values = np.concatenate(found)
        joined = np.empty_like(values)
        joined[where] = values
        return joined

    def take(self, rows: Ints) -> Any:
        """Return ``rows`` as an Arrow array, nulls and all."""
        where, found = self._ask(rows, lambda part, positions: part.take(positions))
        back = np.empty(len(rows), np.int64)
        back[where] = np.arange(len(rows))
        joined = pa.chunked_array(found, found[0].type).take(pa.array(back))
        return joined.combine_chunks()

    def _ask(
        self, rows: Ints, ask: Callable[[Part, Ints], Any]
    ) -> tuple[npt.NDArray[np.int64], list[Any]]:
        """Return what each partition says of its rows, and which of ``rows`` those are, end to end."""
        where: list[npt.NDArray[np.int64]] = []
        found: list[Any] = []
        for number, indices, positions in self._split(rows):
            where.append(indices)
            try:
                found.append(ask(self._part(number), positions))
            except DamagedRowError as error:
                raise DamagedRowError(int(self._blocks.edges[number]) + error.row) from error
        return np.concatenate(where), found

    def _split(self, rows: Ints) -> Iterator[tuple[int, npt.NDArray[np.int64], Ints]]:
        block, position = self._blocks.find(rows)
        order = np.argsort(block, kind="stable")
        edges = np.flatnonzero(np.diff(block[order])) + 1
        for indices in np.split(order, edges):
            # Of no rows, the first partition knows the type.
            yield int(block[indices[0]]) if len(indices) else 0, indices, position[indices]

    def _part(self, number: int) -> Part:
        with self._lock:
            if (part := self._open.get(number)) is not None:
                self._open.move_to_end(number)
                return part
        part = self._open_part(number)
        with self._lock:
            self._open[number] = part
            held = sum(self._sizes[each] for each in self._open)
            while held > self._limit and len(self._open) > 1:
                oldest, _ = self._open.popitem(last=False)
                held -= self._sizes[oldest]
        return part


def _join_ragged(where: npt.NDArray[np.int64], found: Sequence[Any]) -> Gathered:
    values = np.concatenate([values for values, _ in found])
    sizes = np.concatenate([np.diff(offsets) for _, offsets in found])
    begins = np.cumsum(sizes) - sizes
    back = np.empty(len(where), np.int64)
    back[where] = np.arange(len(where))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[back])])
    shift = np.repeat(begins[back] - offsets[:-1], sizes[back])
    return values[shift + np.arange(offsets[-1])], offsets
