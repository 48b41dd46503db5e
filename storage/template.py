"""Templates: what a document is made of, and how long each one will be.

A *document* is one sample as the model sees it: a source sequence and a target sequence of ids,
with tensors (images) standing at some source positions. A *template* says for a whole task which
pieces follow one another: constant ids, a column of ids, a column of dense values. A *column*
belongs to one source and is named by (source name, column id).

Lengths come from the columns' length sidecars, so an epoch is planned before any payload is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..graph.errors import LoaderError

Gathered: TypeAlias = "tuple[npt.NDArray[Any], npt.NDArray[np.int64]] | npt.NDArray[Any]"
"""Ragged rows as (values, offsets), dense rows as one array with the rows first."""


class Column(Protocol):
    """What the loader needs of a stored column."""

    @property
    def num_rows(self) -> int:
        """Rows of the column, whatever their validity."""
        ...

    @property
    def lengths(self) -> npt.NDArray[np.uint32]:
        """Values in each row of a ragged column, shape ``(num_rows,)``."""
        ...

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which rows have a value, shape ``(num_rows,)``."""
        ...

    def gather(self, rows: npt.NDArray[np.int64], /) -> Gathered:
        """Return ``rows`` in the order given; no rows give an empty array of the right shape."""
        ...


Columns: TypeAlias = Mapping[tuple[str, str], Column]
"""Columns by (source name, column id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstPiece:
    """The same ids in every document.

    Attributes:
        ids: Absolute vocabulary ids.
    """

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdsPiece:
    """The ids of a ragged column.

    Attributes:
        column: Column id of the source.
        offset: Where the column's id block begins in the vocabulary; added to every id.
    """

    column: str
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPiece:
    """Source positions that a tensor fills, one tensor per document.

    Attributes:
        column: Column id of the source, dense.
        lane: Which of the pack's tensors it joins, such as ``"image"``.
        length: Source positions that it takes.
    """

    column: str
    lane: str
    length: int


Piece: TypeAlias = ConstPiece | IdsPiece | TensorPiece


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The pieces of one task's documents.

    The target sequence ``t_0 .. t_n`` takes ``n`` positions: the decoder reads ``t_0 .. t_{n-1}``
    and is asked for ``t_1 .. t_n``.

    Attributes:
        task: Name of the task, unique in a mixture.
        source_name: Source whose columns the pieces name.
        source: What the encoder reads.
        target: What the decoder writes; begins with constant ids, the first of which is never asked
            for.
        is_learned: For each target piece, whether its ids count in the loss.
    """

    task: str
    source_name: str
    source: tuple[Piece, ...]
    target: tuple[Piece, ...]
    is_learned: tuple[bool, ...]

    def __post_init__(self) -> None:
        first = self.target[0] if self.target else None
        if not isinstance(first, ConstPiece) or not first.ids:
            raise _refuse(self.task, "its target side does not begin with a constant id")
        if any(isinstance(piece, TensorPiece) for piece in self.target):
            raise _refuse(self.task, "its target side holds a tensor")
        if len(self.is_learned) != len(self.target):
            pieces = f"{len(self.target)} target pieces, {len(self.is_learned)} is_learned"
            raise _refuse(self.task, f"each target piece needs one is_learned: {pieces}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Ids of the columns that the pieces read, each once, in order of first use."""
        pieces = [p for p in self.source + self.target if not isinstance(p, ConstPiece)]
        return tuple(dict.fromkeys(piece.column for piece in pieces))

    @property
    def tensors(self) -> tuple[TensorPiece, ...]:
        """The tensor pieces, in the order of their positions."""
        return tuple(piece for piece in self.source if isinstance(piece, TensorPiece))


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The documents of one task, as lengths.

    Attributes:
        template: What they are made of.
        rows: Global row of each document, shape ``(D,)``.
        source_lengths: Source positions of each, shape ``(D,)``.
        target_lengths: Target positions of each: one less than its target ids; shape ``(D,)``.
    """

    template: Template
    rows: npt.NDArray[np.int64]
    source_lengths: npt.NDArray[np.int32]
    target_lengths: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, keep: npt.NDArray[np.bool_]) -> Documents:
        """Return the documents where ``keep``, shape ``(D,)``, is true."""
        return Documents(
            template=self.template,
            rows=self.rows[keep],
            source_lengths=self.source_lengths[keep],
            target_lengths=self.target_lengths[keep],
        )


def measure_documents(
    template: Template, columns: Columns, rows: npt.NDArray[np.int64]
) -> Documents:
    """Return the lengths of the documents that ``template`` makes of ``rows``.

    Raises:
        LoaderError: A row lies outside a column or has no value there (T0604).
    """
    rows = np.asarray(rows, np.int64)
    for name in template.columns:
        _check_rows(template, name, columns[template.source_name, name], rows)
    return Documents(
        template=template,
        rows=rows,
        source_lengths=_measure(template.source, template, columns, rows),
        target_lengths=_measure(template.target, template, columns, rows) - np.int32(1),
    )


def _measure(
    pieces: tuple[Piece, ...], template: Template, columns: Columns, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    lengths = np.zeros(len(rows), np.int64)
    for piece in pieces:
        match piece:
            case ConstPiece():
                lengths += len(piece.ids)
            case IdsPiece():
                lengths += columns[template.source_name, piece.column].lengths[rows]
            case TensorPiece():
                lengths += piece.length
    return lengths.clip(max=np.iinfo(np.int32).max).astype(np.int32)


def _check_rows(template: Template, name: str, column: Column, rows: npt.NDArray[np.int64]) -> None:
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


def _refuse(task: str, problem: str) -> LoaderError:
    return LoaderError.of("T0606", f'the template of task "{task}" cannot be used: {problem}')


__all__ = [
    "Column",
    "Columns",
    "ConstPiece",
    "Documents",
    "Gathered",
    "IdsPiece",
    "Piece",
    "Template",
    "TensorPiece",
    "measure_documents",
]
