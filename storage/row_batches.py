"""Rows in shuffled batches, padded to the longest of each: for whoever has a model of their own.

Rows of many batches are gathered and padded in one go, into one array that the batches are views of; what is
left per batch is a dictionary. The order is a function of seed and epoch alone, so an epoch can be begun at any
batch. Rows of a store larger than memory are shuffled in *windows*: partitions are shuffled, and then the rows
of as many of them as make a window, while the files of the next window are being read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ..graph.errors import LoaderError, Problem
from .order import permute
from .prefetch import Prefetcher
from .reader import ColumnReader

Batch: TypeAlias = dict[str, npt.NDArray[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]

BLOCK_BATCHES: Final = 64
"""Batches whose small values are gathered in one go, to make few calls."""
PART_BYTES: Final = 8 << 20
"""About what is gathered in one go of large values, of as many of those batches as it is enough for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How rows become batches.

    Attributes:
        batch_size: Rows of a batch; the last of an epoch may have fewer.
        seed: Decides every order; None leaves rows as they are.
        window_rows: Rows that are shuffled together, for stores larger than memory; all if not given.
        prefetch: Groups of batches to stay ahead in a background thread; 0 for no thread. Changes no result.
        pad: What stands behind the end of a list.
    """

    batch_size: int = 32
    seed: int | None = 0
    window_rows: int | None = None
    prefetch: int = 0
    pad: int = 0

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "window_rows": 1, "prefetch": 0}
        wrong = [
            f"{name} must be at least {number}, got {given}"
            for name, number in least.items()
            if (given := getattr(self, name)) is not None and given < number
        ]
        if wrong:
            raise LoaderError(*(Problem("T0606", message) for message in wrong))


class RowBatches:
    """Some rows of some columns of one source, epoch by epoch."""

    def __init__(
        self, columns: Mapping[str, ColumnReader], rows: Ints, config: BatchConfig
    ) -> None:
        """Prepare to read.

        Args:
            columns: The columns by the name that they have in a batch, all over the same partitions.
            rows: Global rows, ascending, each with a value in every column.
            config: How they become batches.

        Raises:
            LoaderError: There are no rows (T0601).
        """
        if not len(rows) or not columns:
            raise LoaderError.of("T0601", "there are no rows to make batches of")
        self.config = config
        self._columns = dict(columns)
        self._rows = np.asarray(rows, np.int64)
        self._block_rows = config.batch_size * BLOCK_BATCHES
        batch_bytes = {n: c.mean_row_bytes * config.batch_size for n, c in columns.items()}
        small = {n for n, size in batch_bytes.items() if size * BLOCK_BATCHES <= PART_BYTES}
        self._small = {name: column for name, column in columns.items() if name in small}
        self._large = {name: column for name, column in columns.items() if name not in small}
        large_bytes = sum(size for name, size in batch_bytes.items() if name not in small)
        self._part_batches = max(1, int(PART_BYTES / large_bytes)) if large_bytes else BLOCK_BATCHES

    def __len__(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self._rows) / self.config.batch_size)

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return len(self._rows)

    def epoch(self, number: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch ``number`` from batch ``start`` on.

        A batch has for every column ``name`` one array, the rows first. Of lists it is as wide as the longest,
        and ``name_lengths`` tells where each ends; small integers in lists are widened to ``int32``, with
        which torch can index. ``rows`` has the number of each row in its source. Arrays may be views.

        Raises:
            StoreError: A column has no form as numbers (T0508), or a file is damaged (T0504).
        """
        blocks = self._blocks(number, start)
        if not self.config.prefetch:
            for block in blocks:
                yield from block
            return
        with Prefetcher(blocks, self.config.prefetch) as ahead:
            for block in ahead:
                yield from block

    def order(self, number: int = 0) -> Ints:
        """Return the rows of epoch ``number`` in their order, shape ``(num_rows,)``."""
        return np.concatenate([rows for rows, _ in self._windows(number)])

    def _blocks(self, number: int, start: int) -> Iterator[list[Batch]]:
        """Yield lists of batches; the files of a window are asked for one window ahead."""
        size, seen, has_begun = self.config.batch_size, 0, False
        left = np.empty(0, np.int64)
        windows = self._windows(number)
        upcoming = next(windows, None)
        while upcoming is not None:
            rows, _ = upcoming
            upcoming = next(windows, None)
            skipped = min(max(0, start * size - seen), len(rows))
            seen += len(rows)
            if skipped < len(rows) and upcoming is not None:
                self._read_ahead(upcoming[1])
            left = np.concatenate([left, rows[skipped:]])
            whole = len(left) if upcoming is None else len(left) // size * size
            begin = 0
            while begin < whole:
                # The first batch comes alone, so that nobody waits for those behind it.
                end = min(begin + (self._block_rows if has_begun else size), whole)
                yield from self._gather(left[begin:end])
                begin, has_begun = end, True
            left = left[whole:]

    def _windows(self, number: int) -> Iterator[tuple[Ints, Ints]]:
        """Yield the rows of each window, shuffled, and the numbers of their partitions."""
        seed, most = self.config.seed, self.config.window_rows
        rows, none = self._rows, np.empty(0, np.int64)
        if seed is None:
            yield rows, none
            return
        if most is None or most >= len(rows):
            yield rows[permute(len(rows), seed, "batches", number)], none
            return
        edges = next(iter(self._columns.values())).partition_edges
        parts = np.searchsorted(edges, rows, side="right") - 1
        present, which, sizes = np.unique(parts, return_inverse=True, return_counts=True)
        shuffled = permute(len(present), seed, "partitions", number)
        window = np.empty(len(present), np.int64)
        window[shuffled] = (np.cumsum(sizes[shuffled]) - 1) // most
        by_window = np.argsort(window[which], kind="stable")
        numbers, counts = np.unique(window[which], return_counts=True)
        for each, places in zip(
            numbers.tolist(), np.split(by_window, np.cumsum(counts)[:-1]), strict=True
        ):
            order = permute(len(places), seed, "window", number, each)
            yield rows[places[order]], present[window == each]

    def _read_ahead(self, partitions: Ints) -> None:
        for column in self._columns.values():
            column.read_ahead(partitions.tolist())

    def _gather(self, rows: Ints) -> Iterator[list[Batch]]:
        """Yield the batches of ``rows``, as many at a time as their large values allow."""
        size, part = self.config.batch_size, self._part_batches
        batches: list[Batch] = [
            {"rows": rows[begin : begin + size]} for begin in range(0, len(rows), size)
        ]
        self._add(batches, self._small, rows)
        parts = [batches[first : first + part] for first in range(0, len(batches), part)]
        # Large values must not be held any longer than whoever is given them does.
        del batches
        for first, number in zip(range(0, len(rows), part * size), range(len(parts)), strict=True):
            some, parts[number] = parts[number], []
            self._add(some, self._large, rows[first : first + part * size])
            yield some

    def _add(self, batches: list[Batch], columns: Mapping[str, ColumnReader], rows: Ints) -> None:
        """Give ``batches``, which are of ``rows``, the values of ``columns``."""
        begins = np.arange(0, len(rows), self.config.batch_size)
        for name, column in columns.items():
            gathered = column.gather(rows)
            if isinstance(gathered, tuple):
                _add_lists(batches, name, *gathered, begins, self.config.pad)
                continue
            for batch, begin in zip(batches, begins.tolist(), strict=True):
                batch[name] = gathered[begin : begin + self.config.batch_size]


def _add_lists(
    batches: list[Batch],
    name: str,
    values: npt.NDArray[Any],
    offsets: Ints,
    begins: Ints,
    pad: int,
) -> None:
    """Give each batch its rows of a ragged column, padded, and their lengths."""
    lengths = np.diff(offsets)
    counts = np.diff(np.append(begins, len(lengths)))
    widths = np.maximum.reduceat(lengths, begins)
    edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths * counts)])
    row_in_batch = np.arange(len(lengths)) - np.repeat(begins, counts)
    starts = np.repeat(edges[:-1], counts) + row_in_batch * np.repeat(widths, counts)
    shape = values.shape[1:]
    padded = np.full((int(edges[-1]), *shape), pad, _widened(values.dtype))
    padded[np.repeat(starts - offsets[:-1], lengths) + np.arange(len(values))] = values
    ends = edges.tolist()
    for number, (batch, count, width) in enumerate(
        zip(batches, counts.tolist(), widths.tolist(), strict=True)
    ):
        begin = int(begins[number])
        batch[name] = padded[ends[number] : ends[number + 1]].reshape(count, width, *shape)
        batch[f"{name}_lengths"] = lengths[begin : begin + count]


def _widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in "iu":
        return dtype
    return np.promote_types(dtype, np.int32)


__all__ = ["BatchConfig", "RowBatches"]
