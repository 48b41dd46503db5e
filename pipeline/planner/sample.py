"""Samples: what the host half of a graph makes of single rows, as values that a person can hold.

Pictures are arrays, texts are text, ids are lists; a document is what the model reads and is asked for.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow makes some of its attributes when it is imported)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...storage.pack import Pack
from ...storage.template import Template

_RAGGED = ("data", "shape")
"""Fields of arrays whose sizes differ from row to row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One row as the model sees it.

    Attributes:
        source_ids: What the encoder reads; the pad id where a tensor stands.
        target_ids: What the decoder reads.
        labels: What it is asked for at each position.
        weights: What each label counts in the loss.
        tensors: First position, lane and number of positions of each tensor.
    """

    source_ids: list[int]
    target_ids: list[int]
    labels: list[int]
    weights: list[float]
    tensors: tuple[tuple[int, str, int], ...] = ()


def host_values(made: Any, dtype: str) -> list[Any]:
    """Return the values of an Arrow array as Python's; arrays of numbers of any shape as NumPy's.

    Args:
        made: What a host op gave.
        dtype: Element type of its output, as the graph spells it.
    """
    if isinstance(made, pa.FixedShapeTensorArray):
        # Missing rows take no place among the numbers.
        rows = iter(np.asarray(made.storage.flatten()).reshape(-1, *made.type.shape))
        return [next(rows) if is_valid else None for is_valid in made.is_valid().to_pylist()]
    if pa.types.is_struct(made.type) and tuple(f.name for f in made.type) == _RAGGED:
        return [_ragged(row, dtype) for row in made.to_pylist()]
    return made.to_pylist()


def documents_of(pack: Pack, template: Template) -> Iterator[tuple[int, Document]]:
    """Yield the documents of ``pack``, all of one task, each with its row."""
    ranges = zip(
        pack.rows[:, 1].tolist(),
        pack.source_ranges.tolist(),
        pack.target_ranges.tolist(),
        strict=True,
    )
    for row, (source, source_end), (target, target_end) in ranges:
        yield (
            row,
            Document(
                source_ids=pack.source_ids[source:source_end].tolist(),
                target_ids=pack.target_ids[target:target_end].tolist(),
                labels=pack.labels[target:target_end].tolist(),
                weights=pack.weights[target:target_end].tolist(),
                tensors=tuple(_tensors(pack, template, source, source_end)),
            ),
        )


def _tensors(
    pack: Pack, template: Template, start: int, stop: int
) -> Iterator[tuple[int, str, int]]:
    found = [
        (int(places[0]) - start, lane, len(places))
        for lane in dict.fromkeys(piece.lane for piece in template.tensors)
        for places in pack.places[lane]
        if start <= places[0] < stop
    ]
    yield from sorted(found)


def _ragged(row: Any, dtype: str) -> Any:
    return None if row is None else np.frombuffer(row["data"], dtype).reshape(row["shape"])
