"""Templates: what a document is made of, and how long each one will be.

A *document* is one sample as the model sees it: a source sequence and a target sequence of ids,
with tensors (images) standing at some source positions. A *template* says for a whole task which
pieces follow one another: constant ids, a column of ids, a column of dense values. A *column*
belongs to one source and is named by (source name, column id).

Lengths come from the columns' length sidecars, so an epoch is planned before any payload is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

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

Redraw: TypeAlias = Callable[
    [npt.NDArray[np.int64], npt.NDArray[np.int64]],
    tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
]
"""Returns source and target positions of the documents of rows, each in its pass."""

PAIRS: Final = "pairs"
"""The lane of a pack that says where the halves of contrastive pairs lie."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned from the ids of a piece of the target.

    Attributes:
        loss: Number of the loss that they count in.
        weight: Weight of each id in it, positive.
    """

    loss: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstPiece:
    """The same ids in every document.

    Attributes:
        ids: Absolute vocabulary ids.
        lesson: What is learned from them, if anything.
    """

    ids: tuple[int, ...]
    lesson: Lesson | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdsPiece:
    """The ids of a ragged column.

    Attributes:
        column: Column id of the source.
        offset: Where the column's id block begins in the vocabulary; added to every id.
        lesson: What is learned from them, if anything.
    """

    column: str
    offset: int = 0
    lesson: Lesson | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPiece:
    """Source positions that a tensor fills, one tensor for each document or item.

    Attributes:
        column: Column id of the source, dense.
        lane: Which of the pack's tensors it joins, such as ``"image"``.
        length: Source positions that it takes.
    """

    column: str
    lane: str
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPiece:
    """Pieces that repeat, once for each item of a document.

    Their columns have a row for each item, those of one document one after another.

    Attributes:
        count: Column id of the number of items that each document has.
        pieces: What an item is made of; no group among them.
    """

    count: str
    pieces: tuple[Single, ...]


Single: TypeAlias = ConstPiece | IdsPiece | TensorPiece
Piece: TypeAlias = "Single | GroupPiece"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The pieces of the documents that a task makes of its rows.

    The target sequence ``t_0 .. t_n`` takes ``n`` positions: the decoder reads ``t_0 .. t_{n-1}``
    and is asked for ``t_1 .. t_n``.

    Attributes:
        task: Name of the task.
        source_name: Source whose columns the pieces name.
        source: What the encoder reads.
        target: What the decoder writes; begins with constant ids, the first of which is never asked
            for. Empty where nothing is written.
        pair: Of how many pieces the left half of a contrastive pair is made, and the number of its
            loss; None for a document that is no pair.
        number: Its number among the templates of its task, from 0.
        num_templates: How many templates the task has; each row is seen with one of them in a pass.
    """

    task: str
    source_name: str
    source: tuple[Piece, ...]
    target: tuple[Piece, ...]
    pair: tuple[int, Lesson] | None = None
    number: int = 0
    num_templates: int = 1

    def __post_init__(self) -> None:
        first = self.target[0] if self.target else None
        if self.target and (not isinstance(first, ConstPiece) or not first.ids):
            raise _refuse(self.task, "its target side does not begin with a constant id")
        if any(isinstance(piece, TensorPiece) for piece in _singles(self.target)):
            raise _refuse(self.task, "its target side holds a tensor")

    @property
    def name(self) -> str:
        """Name of the template: its task, with a number from the second on."""
        return f"{self.task}:{self.number + 1}" if self.number else self.task

    @property
    def columns(self) -> tuple[str, ...]:
        """Ids of the columns that have a row for each document, each once, in order of first use."""
        pieces = (*self.source, *self.target)
        names = (_column_of(piece) for piece in pieces)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def tensors(self) -> tuple[TensorPiece, ...]:
        """The tensor pieces, in the order of their positions."""
        return tuple(p for p in _singles(self.source) if isinstance(p, TensorPiece))

    @property
    def stored(self) -> Iterator[IdsPiece | TensorPiece]:
        """The pieces that are read from a column, those of items among them."""
        pieces = _singles((*self.source, *self.target))
        return (piece for piece in pieces if not isinstance(piece, ConstPiece))

    @property
    def lanes(self) -> tuple[str, ...]:
        """The lanes of a pack that its documents take room in."""
        pairs = [] if self.pair is None else [PAIRS]
        return tuple(dict.fromkeys([piece.lane for piece in self.tensors] + pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The documents of one template, as lengths.

    Attributes:
        template: What they are made of.
        rows: Global row of each document, shape ``(D,)``.
        source_lengths: Source positions of each in the first pass, shape ``(D,)``.
        target_lengths: Target positions of each, likewise: one less than its target ids; shape ``(D,)``.
        tensors: Tensors of each lane that each brings, shape ``(D,)``.
        longest: Most source, and most target positions of each in any pass; those of the first if None.
        redraw: Returns the lengths of given rows in given passes; None where every pass is like the first.
    """

    template: Template
    rows: npt.NDArray[np.int64]
    source_lengths: npt.NDArray[np.int32]
    target_lengths: npt.NDArray[np.int32]
    tensors: Mapping[str, npt.NDArray[np.int64]]
    longest: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None = None
    redraw: Redraw | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def count_tensors(self, lanes: Iterable[str]) -> npt.NDArray[np.int64]:
        """Return the tensors of each document in ``lanes``, one row a lane, shape ``(lanes, D)``."""
        none = np.zeros(len(self), np.int64)
        numbers = [self.tensors.get(lane, none) for lane in lanes]
        return np.array(numbers, np.int64).reshape(len(numbers), len(self))

    @property
    def longest_source(self) -> npt.NDArray[np.int32]:
        """Most source positions of each in any pass, shape ``(D,)``."""
        return self.source_lengths if self.longest is None else self.longest[0]

    @property
    def longest_target(self) -> npt.NDArray[np.int32]:
        """Most target positions of each in any pass, shape ``(D,)``."""
        return self.target_lengths if self.longest is None else self.longest[1]

    def lengths_in(
        self, which: npt.NDArray[np.int64], passes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return source and target positions of documents ``which``, each in one of ``passes``."""
        if self.redraw is None:
            return self.source_lengths[which], self.target_lengths[which]
        return self.redraw(self.rows[which], passes)

    def select(self, keep: npt.NDArray[np.bool_]) -> Documents:
        """Return the documents where ``keep``, shape ``(D,)``, is true."""
        return Documents(
            template=self.template,
            rows=self.rows[keep],
            source_lengths=self.source_lengths[keep],
            target_lengths=self.target_lengths[keep],
            tensors={lane: numbers[keep] for lane, numbers in self.tensors.items()},
            longest=None
            if self.longest is None
            else (self.longest[0][keep], self.longest[1][keep]),
            redraw=self.redraw,
        )


def _refuse(task: str, problem: str) -> LoaderError:
    return LoaderError.of("T0606", f'the template of task "{task}" cannot be used: {problem}')


def _singles(pieces: tuple[Piece, ...]) -> Iterator[Single]:
    for piece in pieces:
        if isinstance(piece, GroupPiece):
            yield from piece.pieces
        else:
            yield piece


def _column_of(piece: Piece) -> str | None:
    match piece:
        case ConstPiece():
            return None
        case GroupPiece():
            return piece.count
        case _:
            return piece.column
