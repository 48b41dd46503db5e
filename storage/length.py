"""How long the documents of a template will be, from the length sidecars of its columns alone.

Items of a group lie in columns of their own, those of one row after those of the row before: the number
of items of every row says where they begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from ..graph.errors import LoaderError
from .capacity import Capacity
from .online import OnlineColumn, measure_rows
from .template import (
    PAIRS,
    Column,
    Columns,
    ConstPiece,
    Documents,
    GroupPiece,
    IdsPiece,
    Piece,
    Template,
    TensorPiece,
)
from .tile import Ints


def measure_documents(template: Template, columns: Columns, rows: Ints) -> Documents:
    """Return the lengths of the documents that ``template`` makes of ``rows``.

    Raises:
        LoaderError: A row lies outside a column or has no value there (T0604).
    """
    rows = np.asarray(rows, np.int64)
    for name in template.columns:
        _check_rows(template, name, columns[template.source_name, name], rows)
    lengths = Lengths(columns)
    redraw = partial(_measure_sides, template, lengths) if is_online(template, columns) else None
    longest = _measure_sides(template, lengths, rows, None)
    first = longest if redraw is None else redraw(rows, np.zeros_like(rows))
    return Documents(
        template=template,
        rows=rows,
        source_lengths=first[0],
        target_lengths=first[1],
        tensors={lane: _count_tensors(lane, template, lengths, rows) for lane in template.lanes},
        longest=None if redraw is None else longest,
        redraw=redraw,
    )


def is_online(template: Template, columns: Columns) -> bool:
    """Return whether some piece of ``template`` is computed whenever it is read."""
    read = (columns[template.source_name, piece.column] for piece in template.stored)
    return any(isinstance(column, OnlineColumn) for column in read)


def _measure_sides(
    template: Template, lengths: Lengths, rows: Ints, passes: Ints | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    source = lengths.measure(template.source, template.source_name, rows, passes)
    target = lengths.measure(template.target, template.source_name, rows, passes)
    return _narrow(source), _narrow((target - 1).clip(min=0))


class Lengths:
    """Measures pieces of documents, and of the items inside them."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._starts: dict[tuple[str, str], Ints] = {}

    def measure(
        self,
        pieces: Sequence[Piece],
        source_name: str,
        rows: Ints,
        passes: Ints | None = None,
    ) -> Ints:
        """Return how many positions ``pieces`` take in the document, or item, of each of ``rows``.

        Each is seen in one of ``passes``; without them it is the most that it takes in any.
        """
        lengths = np.zeros(len(rows), np.int64)
        for piece in pieces:
            match piece:
                case ConstPiece():
                    lengths += len(piece.ids)
                case IdsPiece():
                    column = self._columns[source_name, piece.column]
                    lengths += measure_rows(column, rows, passes)
                case TensorPiece():
                    lengths += piece.length
                case GroupPiece():
                    items, owners = self.find_items(piece, source_name, rows)
                    theirs = None if passes is None else passes[owners]
                    each = self.measure(piece.pieces, source_name, items, theirs)
                    sums = np.bincount(owners, weights=each, minlength=len(rows))
                    lengths += sums.astype(np.int64)
        return lengths

    def find_items(self, group: GroupPiece, source_name: str, rows: Ints) -> tuple[Ints, Ints]:
        """Return the items of ``group`` in ``rows``, and for each the position in ``rows`` of its row."""
        key = (source_name, group.count)
        if key not in self._starts:
            self._starts[key] = item_starts(self._columns[key])
        return find_items(self._starts[key], rows)


def find_items(starts: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Return the items of ``rows``, in order, and for each the position in ``rows`` of its row.

    Args:
        starts: Where the items of every row begin, from `item_starts`.
        rows: Global rows.
    """
    numbers = np.diff(starts)[rows]
    owners = np.repeat(np.arange(len(rows)), numbers)
    firsts = np.cumsum(numbers) - numbers
    return starts[rows][owners] + np.arange(len(owners)) - firsts[owners], owners


def item_starts(count: Column) -> Ints:
    """Return where the items of every row begin, and where the last end; shape ``(num_rows + 1,)``."""
    numbers = count.gather(np.arange(count.num_rows))
    if isinstance(numbers, tuple):
        raise LoaderError.of("T0605", "a ragged column stands where numbers of items are wanted")
    known = np.where(count.valid, numbers.astype(np.int64), 0)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])


def select_fitting(measured: Sequence[Documents], capacity: Capacity) -> list[Documents]:
    """Return the documents of rows that fit with every template of their task.

    Args:
        measured: Those of each template, all templates of a task over the same rows.
        capacity: What a pack holds.
    """
    fits: dict[str, npt.NDArray[np.bool_]] = {}
    for each in measured:
        task = each.template.task
        fits[task] = fits.get(task, np.True_) & capacity.fits(each)
    return [each.select(fits[each.template.task]) for each in measured]


def _count_tensors(lane: str, template: Template, lengths: Lengths, rows: Ints) -> Ints:
    if lane == PAIRS:
        return np.ones(len(rows), np.int64)
    numbers = np.zeros(len(rows), np.int64)
    for piece in template.source:
        if isinstance(piece, TensorPiece):
            numbers += piece.lane == lane
        elif isinstance(piece, GroupPiece):
            per_item = sum(isinstance(p, TensorPiece) and p.lane == lane for p in piece.pieces)
            _, owners = lengths.find_items(piece, template.source_name, rows)
            numbers += per_item * np.bincount(owners, minlength=len(rows))
    return numbers


def _narrow(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    return lengths.clip(max=np.iinfo(np.int32).max).astype(np.int32)


def _check_rows(template: Template, name: str, column: Column, rows: Ints) -> None:
    outside = (rows < 0) | (rows >= column.num_rows)
    problem = ""
    if outside.any():
        row = int(rows[outside.argmax()])
        problem = f"row {row} of {int(outside.sum())} lies outside its {column.num_rows} rows"
    elif not (present := column.valid[rows]).all():
        row = int(rows[(~present).argmax()])
        problem = f"{int((~present).sum())} of {len(rows)} rows have no value, first row {row}"
    if problem:
        message = f'task "{template.task}" cannot read column "{name}": {problem}'
        help_ = "give the rows that are valid in every column of the task"
        raise LoaderError.of("T0604", message, help_).at(column=name)
