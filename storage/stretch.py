"""What each piece of some documents puts where: positions in a stream, and the values that fill them.

Each piece is one gather from its column, whatever the number of documents. The items of a group are read like
documents of their own, each beginning where the one before it ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..graph.errors import LoaderError
from .length import Lengths
from .online import OnlineColumn, gather_rows
from .template import (
    Column,
    Columns,
    ConstPiece,
    Gathered,
    GroupPiece,
    IdsPiece,
    Piece,
    Single,
    TensorPiece,
)
from .tile import Ints, restart_sums


class Stretch(NamedTuple):
    """One piece of N documents or items.

    Attributes:
        piece: The piece.
        owners: Number of the document that each belongs to, shape ``(N,)``.
        places: Which item of that document it is, shape ``(N,)``; 0 for what does not repeat.
        where: Positions that it fills: of tensors and constants shape ``(N, length)``, of ids flat.
        values: What fills them, in the same order.
        lengths: How many each fills, shape ``(N,)``.
    """

    piece: Single
    owners: Ints
    places: Ints
    where: Ints
    values: npt.NDArray[Any]
    lengths: Ints

    def move(self, steps: Ints) -> Stretch:
        """Return the same with each document or item so many positions further on, shape ``(N,)``."""
        each = steps[:, None] if self.where.ndim > 1 else np.repeat(steps, self.lengths)
        return self._replace(where=self.where + each)


class PieceReader:
    """Reads the pieces of documents from columns.

    Attributes:
        seconds: How long gathering values has taken.
        lengths: Measures what is read.
        column: The column that is being read; None in between.
    """

    def __init__(self, columns: Columns) -> None:
        self.seconds = 0.0
        self.column: Column | None = None
        self._columns = columns
        self.lengths = Lengths(columns)

    def read(
        self, pieces: Sequence[Piece], source_name: str, rows: Ints, passes: Ints, starts: Ints
    ) -> Iterator[Stretch]:
        """Yield each piece of some documents.

        Args:
            pieces: What they are made of.
            source_name: Source of the columns that the pieces name.
            rows: Global row of each document.
            passes: The pass in which each is seen.
            starts: Position at which each begins; what it is made of follows without a gap.

        Raises:
            LoaderError: A column returns other lengths than its sidecar promised (T0605).
        """
        for piece in pieces:
            if isinstance(piece, GroupPiece):
                stretches = self._read_group(piece, source_name, rows, passes)
                for stretch in stretches:
                    yield stretch.move(starts[stretch.owners])
                starts = starts + sum_lengths(stretches, len(rows))
            else:
                stretch = self._read_single(piece, source_name, rows, passes, starts)
                yield stretch
                starts = starts + stretch.lengths

    def _read_group(
        self, group: GroupPiece, source_name: str, rows: Ints, passes: Ints
    ) -> list[Stretch]:
        """Return the pieces of all items; positions count from the beginning of the group in each document."""
        items, owners = self.lengths.find_items(group, source_name, rows)
        places = restart_sums(np.ones(len(items), np.int64), owners)
        starts = np.zeros(len(items), np.int64)
        stretches = list(self.read(group.pieces, source_name, items, passes[owners], starts))
        before = restart_sums(sum((each.lengths for each in stretches), starts), owners)
        return [each.move(before)._replace(owners=owners, places=places) for each in stretches]

    def _read_single(
        self, piece: Single, source_name: str, rows: Ints, passes: Ints, starts: Ints
    ) -> Stretch:
        owners, places = np.arange(len(rows)), np.zeros(len(rows), np.int64)
        if isinstance(piece, ConstPiece):
            lengths = np.full(len(rows), len(piece.ids))
            where = starts[:, None] + np.arange(len(piece.ids))
            ids = np.array(piece.ids, np.int32)
            return Stretch(piece, owners, places, where, ids, lengths)
        began = time.perf_counter()
        column = self._columns[source_name, piece.column]
        self.column = column
        gathered = gather_rows(column, rows, passes)
        self.column = None
        self.seconds += time.perf_counter() - began
        if isinstance(piece, TensorPiece):
            lengths = np.full(len(rows), piece.length)
            where = starts[:, None] + np.arange(piece.length)
            return Stretch(piece, owners, places, where, as_dense(gathered), lengths)
        values, offsets = _as_ragged(gathered)
        lengths = np.diff(offsets)
        if not isinstance(column, OnlineColumn):
            _check_lengths(piece, column, rows, lengths)
        where = np.repeat(starts - offsets[:-1], lengths)
        where += np.arange(offsets[0], offsets[-1])
        ids = values.astype(np.int32)
        ids += np.int32(piece.offset)
        return Stretch(piece, owners, places, where, ids, lengths)


def sum_lengths(stretches: Sequence[Stretch], num_documents: int) -> Ints:
    """Return how many positions ``stretches`` fill in each document, shape ``(num_documents,)``."""
    total = np.zeros(num_documents, np.int64)
    for stretch in stretches:
        sums = np.bincount(stretch.owners, weights=stretch.lengths, minlength=num_documents)
        total += sums.astype(np.int64)
    return total


def _check_lengths(piece: IdsPiece, column: Column, rows: Ints, lengths: Ints) -> None:
    promised = column.lengths[rows]
    if not np.array_equal(lengths, promised):
        row = int(rows[(lengths != promised).argmax()])
        message = f'column "{piece.column}" has other lengths than its sidecar, row {row}'
        help_ = "a file is damaged; `taskloom verify` finds out which"
        raise LoaderError.of("T0605", message, help_).at(column=piece.column)


def as_dense(gathered: Gathered) -> npt.NDArray[Any]:
    """Return what was gathered of a dense column.

    Raises:
        LoaderError: It is ragged (T0605).
    """
    if isinstance(gathered, tuple):
        raise LoaderError.of("T0605", "a ragged column stands where a tensor is wanted")
    return gathered


def _as_ragged(gathered: Gathered) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    if not isinstance(gathered, tuple):
        raise LoaderError.of("T0605", "a dense column stands where ids are wanted")
    return gathered
