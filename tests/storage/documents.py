"""Columns in memory, mixtures over them, and what a document is, said slowly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt

from taskloom.storage.capacity import Capacity
from taskloom.storage.loader import Loader, LoaderConfig, to_torch
from taskloom.storage.pack import Pack
from taskloom.storage.template import (
    PAIRS,
    Column,
    Columns,
    ConstPiece,
    GroupPiece,
    IdsPiece,
    Lesson,
    Piece,
    Single,
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

    def without(self, *numbers: int) -> Mixture:
        """Return the same mixture without some of its tasks."""
        kept = [each for number, each in enumerate(self.templates) if number not in numbers]
        return replace(self, templates=tuple(kept))

    def loader(
        self,
        state: dict[str, Any] | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        **settings: Any,
    ) -> Loader:
        config = LoaderConfig(capacity=self.capacity, pad_id=PAD, prefetch=0)
        return Loader(
            self.templates,
            self.rows,
            self.columns,
            replace(config, **settings),
            plan_digest="plan",
            state=state,
            rank=rank,
            world_size=world_size,
        )


def make_ids(rng: np.random.Generator, num_rows: int, shortest: int, longest: int) -> RaggedColumn:
    """Return rows of random ids, ``shortest`` to ``longest`` of them."""
    lengths = rng.integers(shortest, longest + 1, num_rows)
    return RaggedColumn([rng.integers(0, 500, length).astype(np.uint16) for length in lengths])


def make_mixture(
    num_rows: Sequence[int], *, seed: int = 0, has_images: bool = True, tile: int = 8
) -> Mixture:
    """Return a mixture of tasks over sources of ``num_rows`` rows.

    Every second task has an image, every third none on its source side but constants, every other a
    group, every fifth is pairs, and the lengths of texts are spread over tiles of ``tile`` and more.
    """
    rng = np.random.default_rng(seed)
    columns: dict[tuple[str, str], Column] = {}
    templates: list[Template] = []
    rows: dict[str, Ints] = {}
    for number, size in enumerate(num_rows):
        source_name, task = f"source{number}", f"task{number}"
        columns |= _make_columns(rng, source_name, size + 3, tile)
        templates.append(_make_template(number, source_name, task, has_images=has_images))
        rows[task] = rng.permutation(size + 3)[:size]
    return Mixture(
        templates=tuple(templates),
        rows=rows,
        columns=columns,
        capacity=Capacity(
            source=8 * tile,
            target=8 * tile,
            tensors={"image": 6, PAIRS: 3} if has_images else {PAIRS: 3},
            tile=tile,
        ),
    )


def _make_columns(
    rng: np.random.Generator, source_name: str, num_rows: int, tile: int
) -> dict[tuple[str, str], Column]:
    counts = rng.integers(0, 3, num_rows).astype(np.uint32)
    num_items = int(counts.sum())
    pixels = rng.integers(0, 256, (num_rows + num_items, 2, 2, 3)).astype(np.uint8)
    columns: dict[str, Column] = {
        "text": make_ids(rng, num_rows, 0, 3 * tile),
        "answer": make_ids(rng, num_rows, 0, tile + 3),
        "image": DenseColumn(pixels[:num_rows]),
        "count": DenseColumn(counts),
        "word": make_ids(rng, num_items, 0, tile // 2),
        "picture": DenseColumn(pixels[num_rows:]),
    }
    return {(source_name, name): column for name, column in columns.items()}


def _make_template(number: int, source_name: str, task: str, *, has_images: bool) -> Template:
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
    lesson = Lesson(number, 0.5 + number)
    word = IdsPiece(column="word", offset=3000)
    if number % 2 == 1:
        picture = TensorPiece(column="picture", lane="image", length=4)
        pieces = (word, picture, ConstPiece(ids=(606,))) if has_images else (word,)
        source = (*source, GroupPiece(count="count", pieces=pieces))
    target: tuple[Piece, ...] = (
        ConstPiece(ids=(1, 605)),
        IdsPiece(column="answer", offset=2000, lesson=lesson),
        ConstPiece(ids=(2,), lesson=lesson if number % 2 == 0 else None),
    )
    if number % 4 == 1:
        inner = (replace(word, lesson=lesson), ConstPiece(ids=(607,)))
        target = (*target[:2], GroupPiece(count="count", pieces=inner), target[2])
    is_pair = number % 5 == 4
    return Template(
        task=task,
        source_name=source_name,
        source=source,
        target=() if is_pair else target,
        pair=(1, lesson) if is_pair else None,
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
        weights: What each target id counts.
        middle: Source positions of the left half of a pair.
    """

    source: list[int] = field(default_factory=list[int])
    tensors: list[tuple[npt.NDArray[Any], int]] = field(
        default_factory=list[tuple[npt.NDArray[Any], int]]
    )
    target: list[int] = field(default_factory=list[int])
    weights: list[float] = field(default_factory=list[float])
    middle: int = 0


def read_slowly(template: Template, columns: Columns, row: int) -> SlowDocument:
    """Return the document that ``template`` makes of ``row``."""
    document = SlowDocument()
    for number, piece in enumerate(template.source):
        if template.pair is not None and number == template.pair[0]:
            document.middle = len(document.source)
        for single, at in _unroll(piece, template, columns, row):
            values = _read(single, template, columns, at)
            if isinstance(single, TensorPiece):
                document.tensors.append((np.asarray(values), len(document.source)))
                values = [PAD] * single.length
            document.source += values
    for piece in template.target:
        for single, at in _unroll(piece, template, columns, row):
            ids = _read(single, template, columns, at)
            assert not isinstance(single, TensorPiece)
            document.target += ids
            document.weights += [single.lesson.weight if single.lesson else 0.0] * len(ids)
    return document


def _unroll(
    piece: Piece, template: Template, columns: Columns, row: int
) -> Iterator[tuple[Single, int]]:
    """Yield the pieces that ``piece`` stands for, and the row of their column."""
    if not isinstance(piece, GroupPiece):
        yield piece, row
        return
    counts = columns[template.source_name, piece.count].gather(np.arange(row + 1))
    assert isinstance(counts, np.ndarray)
    for item in range(int(counts[:row].sum()), int(counts.sum())):
        yield from ((single, item) for single in piece.pieces)


def _read(piece: Single, template: Template, columns: Columns, row: int) -> list[Any]:
    if isinstance(piece, ConstPiece):
        return list(piece.ids)
    gathered = columns[template.source_name, piece.column].gather(np.array([row]))
    if isinstance(piece, TensorPiece):
        assert isinstance(gathered, np.ndarray)
        return gathered[0].tolist()
    assert isinstance(gathered, tuple)
    return [int(value) + piece.offset for value in gathered[0]]
