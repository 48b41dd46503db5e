"""Columns in memory, mixtures over them, and what a document is, said slowly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt

from taskloom.storage.capacity import Capacity
from taskloom.storage.loader import Loader, LoaderConfig, to_torch
from taskloom.storage.pack import Pack
from taskloom.storage.template import (
    Column,
    Columns,
    ConstPiece,
    IdsPiece,
    Piece,
    Template,
    TensorPiece,
)

Ints = npt.NDArray[np.int64]
PAD = 9999
Step = tuple[Pack, ...]


class RaggedColumn:
    """Rows of ids of any length."""

    def __init__(self, rows: Sequence[npt.NDArray[Any]]) -> None:
        self.num_rows = len(rows)
        self.lengths = np.array([len(row) for row in rows], np.uint32)
        self.valid = np.ones(len(rows), np.bool_)
        self._values = np.concatenate([np.empty(0, np.uint16), *rows]).astype(np.uint16)
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def gather(self, rows: Ints) -> tuple[npt.NDArray[Any], Ints]:
        starts, lengths = self._offsets[rows], np.diff(self._offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        where = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return self._values[where], offsets


class DenseColumn:
    """Rows of one shape."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values
        self.num_rows = len(values)
        self.lengths = np.ones(len(values), np.uint32)
        self.valid = np.ones(len(values), np.bool_)

    def gather(self, rows: Ints) -> npt.NDArray[Any]:
        return self.values[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Tasks over columns in memory, and a pack for them."""

    templates: tuple[Template, ...]
    rows: dict[str, Ints]
    columns: Columns
    capacity: Capacity

    def with_column(self, source_name: str, column_id: str, column: Column) -> Mixture:
        """Return the same mixture with one column replaced."""
        return replace(self, columns={**self.columns, (source_name, column_id): column})

    def loader(self, state: dict[str, Any] | None = None, **settings: Any) -> Loader:
        config = LoaderConfig(capacity=self.capacity, pad_id=PAD, prefetch=0)
        return Loader(
            self.templates,
            self.rows,
            self.columns,
            replace(config, **settings),
            plan_digest="plan",
            state=state,
        )


def make_ids(rng: np.random.Generator, num_rows: int, shortest: int, longest: int) -> RaggedColumn:
    """Return rows of random ids, ``shortest`` to ``longest`` of them."""
    lengths = rng.integers(shortest, longest + 1, num_rows)
    return RaggedColumn([rng.integers(0, 500, length).astype(np.uint16) for length in lengths])


def make_mixture(
    num_rows: Sequence[int], *, seed: int = 0, has_images: bool = True, tile: int = 8
) -> Mixture:
    """Return a mixture of tasks over sources of ``num_rows`` rows.

    Every second task has an image, every third none on its source side but constants, and the
    lengths of the others are spread over tiles of ``tile`` and more.
    """
    rng = np.random.default_rng(seed)
    columns: dict[tuple[str, str], Column] = {}
    templates: list[Template] = []
    rows: dict[str, Ints] = {}
    for number, size in enumerate(num_rows):
        source_name, task = f"source{number}", f"task{number}"
        columns[source_name, "text"] = make_ids(rng, size + 3, 0, 3 * tile)
        columns[source_name, "answer"] = make_ids(rng, size + 3, 0, tile + 3)
        image = rng.integers(0, 256, (size + 3, 2, 2, 3)).astype(np.uint8)
        columns[source_name, "image"] = DenseColumn(image)
        source: tuple[Piece, ...] = (
            ConstPiece(ids=(600 + number,)),
            IdsPiece(column="text", offset=1000),
            ConstPiece(ids=(601, 602)),
        )
        if number % 3 == 2:
            source = (ConstPiece(ids=(603,)),)
        if has_images and number % 2 == 0:
            tensor = TensorPiece(column="image", lane="image", length=4)
            source = (ConstPiece(ids=(604,)), tensor, *source, tensor)
        target = (
            ConstPiece(ids=(1, 605)),
            IdsPiece(column="answer", offset=2000),
            ConstPiece(ids=(2,)),
        )
        templates.append(
            Template(
                task=task,
                source_name=source_name,
                source=source,
                target=target,
                is_learned=(False, True, number % 2 == 0),
            )
        )
        rows[task] = rng.permutation(size + 3)[:size]
    return Mixture(
        templates=tuple(templates),
        rows=rows,
        columns=columns,
        capacity=Capacity(
            source=8 * tile,
            target=8 * tile,
            tensors={"image": 6} if has_images else {},
            tile=tile,
        ),
    )


def mixtures(max_tasks: int = 4, max_rows: int = 60) -> st.SearchStrategy[Mixture]:
    """Draw mixtures of 1 to ``max_tasks`` tasks of 1 to ``max_rows`` rows."""
    return st.builds(
        make_mixture,
        st.lists(st.integers(1, max_rows), min_size=1, max_size=max_tasks),
        seed=st.integers(0, 2**32 - 1),
        has_images=st.booleans(),
        tile=st.sampled_from([4, 8, 16]),
    )


def take(loader: Loader, num_steps: int) -> list[Step]:
    """Return the next steps, and stop the loader."""
    with loader:
        return list(islice(loader, num_steps))


def digest(step: Step) -> tuple[bytes, ...]:
    """Return every byte of ``step``."""
    arrays = (array for pack in step for array in [*to_torch(pack).values()])
    rows = (pack.rows.tobytes() for pack in step)
    return (*rows, *(array.numpy().tobytes() for array in arrays))


@dataclass(slots=True)
class SlowDocument:
    """One document, read piece by piece from its columns.

    Attributes:
        source: Source ids, `PAD` under tensors.
        tensors: Values of each tensor and the source position it starts at.
        target: Target ids.
        learned: For each target id, whether it counts.
    """

    source: list[int]
    tensors: list[tuple[npt.NDArray[Any], int]]
    target: list[int]
    learned: list[bool]


def read_slowly(template: Template, columns: Columns, row: int) -> SlowDocument:
    """Return the document that ``template`` makes of ``row``."""
    document = SlowDocument([], [], [], [])
    for piece in template.source:
        if isinstance(piece, TensorPiece):
            values = columns[template.source_name, piece.column].gather(np.array([row]))
            assert isinstance(values, np.ndarray)
            document.tensors.append((values[0], len(document.source)))
            document.source += [PAD] * piece.length
        else:
            document.source += _read_ids(piece, template, columns, row)
    for piece, is_learned in zip(template.target, template.is_learned, strict=True):
        ids = _read_ids(piece, template, columns, row)
        document.target += ids
        document.learned += [is_learned] * len(ids)
    return document


def _read_ids(piece: Piece, template: Template, columns: Columns, row: int) -> list[int]:
    if isinstance(piece, ConstPiece):
        return list(piece.ids)
    assert isinstance(piece, IdsPiece)
    gathered = columns[template.source_name, piece.column].gather(np.array([row]))
    assert isinstance(gathered, tuple)
    return [int(value) + piece.offset for value in gathered[0]]
