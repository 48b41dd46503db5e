"""Predictions: what a model answers to rows, or why it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pyarrow as pa

from ..graph.errors import RowError, TaskloomError
from .document import make_templates
from .given_rows import RowReader
from .writing import Said, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model wrote for one row.

    Attributes:
        text: The value of the only slot, or the whole target where there are several; None if the row could
            not be answered.
        values: The text of each target slot; a list of texts for a slot of a group.
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
) -> Iterator[Prediction]:
    """Yield the answers to the rows of ``batch``, the first of which is row ``first`` of all."""
    columns, problems = reader.read(batch, first)
    usable = [row for row in range(batch.num_rows) if row not in problems]
    template = make_templates(writer.plan, writer.task)[0]
    written = write(writer, template, columns, np.array(usable, np.int64))
    for row in range(batch.num_rows):
        if row in written:
            best, *others = (Prediction(**said._asdict()) for said in written[row])
            yield replace(best, others=tuple(others))
        else:
            bad = problems.get(row) or [writer.too_long(first + row)]
            yield Prediction(text=None, error=RowError(*bad))
