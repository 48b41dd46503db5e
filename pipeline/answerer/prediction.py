"""Predictions: what a model answers to rows, or why it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pyarrow as pa

from ...graph.errors import RowError, TaskloomError
from ..loader.given_rows import RowReader
from ..planner.document import make_templates
from ..planner.spelling import Size, measure_picture, place_boxes
from .writing import Said, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model wrote for one row.

    Attributes:
        text: The value of the only slot, or the whole target where there are several, with the ids of boxes in
            it; None if the row could not be answered.
        values: The text of each target slot; a list of texts for a slot of a group. A box is ``x0,y0,x1,y1`` in
            pixels of the row's picture, its four ids where there is none.
        log_prob: Log probability of the text, among those that were allowed.
        others: What else was found, the best first, where the search returns more than one target.
        error: Why the row could not be answered.
    """

    text: str | None
    values: Mapping[str, str | list[str]] = field(default_factory=dict[str, "str | list[str]"])
    log_prob: float = float("-inf")
    others: tuple[Self, ...] = ()
    error: TaskloomError | None = None


def answer(
    writer: Writer,
    reader: RowReader,
    batch: pa.RecordBatch,
    first: int,
    write: Callable[..., dict[int, list[Said]]],
    pictures: Mapping[str, str],
) -> Iterator[Prediction]:
    """Yield the answers to the rows of ``batch``, the first of which is row ``first`` of all.

    Boxes are placed in the picture that their row has in the column that ``pictures`` tells.
    """
    columns, problems = reader.read(batch, first)
    usable = [row for row in range(batch.num_rows) if row not in problems]
    template = make_templates(writer.plan, writer.task)[0]
    written = write(writer, template, columns, np.array(usable, np.int64))
    for row in range(batch.num_rows):
        if row in written:
            sizes = {
                slot: measure_picture(batch.column(column)[row])
                for slot, column in pictures.items()
                if slot in written[row][0].values
            }
            best, *others = (_predict(said, sizes) for said in written[row])
            yield replace(best, others=tuple(others))
        else:
            bad = problems.get(row) or [writer.too_long(first + row)]
            yield Prediction(text=None, error=RowError(*bad))


def _predict(said: Said, sizes: Mapping[str, Size]) -> Prediction:
    """Return what was written, with boxes in pictures of ``sizes``."""
    values = place_boxes(said.values, sizes)
    only = next(iter(values.values())) if len(values) == 1 else None
    text = only if isinstance(only, str) else said.text
    return Prediction(text=text, values=values, log_prob=said.log_prob)
