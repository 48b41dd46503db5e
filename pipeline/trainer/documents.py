"""Documents of steps that went wrong, by name: a few are told, and all are in a file of the run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ...storage.files import write_json
from ..loader.stream import Stream

MAX_TOLD: Final = 20
"""Documents that a message names."""

Row = tuple[int, int]
"""Number of a template, and global row."""

Document = tuple[str, str, str]
"""Task, source and row id."""

Rows: TypeAlias = npt.NDArray[np.int64]
"""Number of a template and global row of each document of a pack, shape ``(D, 2)``."""


def find_rows(packs: Iterable[Rows]) -> list[Row]:
    """Return the rows of ``packs`` in their order, each once."""
    rows = ((int(template), int(row)) for rows in packs for template, row in rows.tolist())
    return list(dict.fromkeys(rows))


def name_documents(stream: Stream, rows: Sequence[Row]) -> list[Document]:
    """Return the documents that ``rows`` are, in their order."""
    ids: dict[Row, str] = {}
    for number in {template for template, _ in rows}:
        own = [row for template, row in rows if template == number]
        names = name_rows(stream, number, own)
        ids |= {(number, row): name for row, name in zip(own, names, strict=True)}
    templates = stream.templates
    return [(templates[n].task, templates[n].source_name, ids[n, row]) for n, row in rows]


def name_rows(stream: Stream, template: int, rows: Sequence[int]) -> list[str]:
    """Return the ids of ``rows`` of the source of a template, given by their numbers among all."""
    name = stream.templates[template].source_name
    if name not in stream.store.sources():
        return [str(row) for row in rows]
    partitions = stream.store.source(name).partitions
    starts = [0, *accumulate(partition.rows for partition in partitions)]
    places = [bisect_right(starts, row) - 1 for row in rows]
    return [
        f"{partitions[place].id}:{row - starts[place]}"
        for row, place in zip(rows, places, strict=True)
    ]


def tell_documents(documents: Sequence[Document], path: Path) -> list[str]:
    """Return a line for each of the first of ``documents``; all of them are in ``path``."""
    lines = [f"  {task} {row}" for task, _, row in documents[:MAX_TOLD]]
    if (left := len(documents) - MAX_TOLD) > 0:
        lines.append(f"  and {left:,} more, in {path}")
    return lines


def write_documents(path: Path, documents: Sequence[Document], **facts: Any) -> None:
    """Write all ``documents`` to ``path``, beside ``facts`` about them.

    Raises:
        StoreError: The disk is full, or the file cannot be written.
    """
    rows = [dict(zip(("task", "source", "row"), each, strict=True)) for each in documents]
    write_json(path, {**facts, "documents": rows})
