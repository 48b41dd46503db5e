"""Picking one row of a task: by number, by row id, or by the value of a column.

Rows come from the store where the task's source was built, and from the source itself otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...graph.errors import Problem, ProjectError
from ...graph.node import Value
from ...ops.host.read import SPLIT_COLUMN
from ...storage.head import read_head
from ...storage.source import read_batches
from ...storage.store import Store
from ..builder.dataset import SPLIT_CODES, Split
from ..planner.planning import Plan
from ..task import Task
from .run_to import as_batch, host_execution

MAX_UNBUILT: Final = 100_000
"""Rows that are looked through where nothing was built; a number reaches further."""

_ROW_ID = re.compile(r"([0-9a-f]{4,16}):(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PickedRow:
    """One row of a task.

    Attributes:
        row: Row id, or number of the row where nothing was built.
        table: Its columns and its split, as a table of one row.
    """

    row: str
    table: pa.Table


def pick_row(
    plan: Plan, task: Task, store: Store | None, which: str, split: Split | None = None
) -> PickedRow:
    """Return the row that ``which`` names.

    Args:
        plan: The plan, for the splits of rows.
        task: The task.
        store: The store, if there is one; it need not hold the task.
        which: A number from 0 on; a row id, such as ``5c1f:1499``; ``column=value``; or a value of the key.
        split: Count, and look, only among the rows of this split that the task's filters keep.

    Raises:
        ProjectError: There is no such row (T0816).
        SourceError: The rows cannot be read.
        StoreError: A file of the source has changed since it was built.
    """
    pieces = _pieces(task, store, which, split)
    if split is not None:
        pieces = _of_split(plan, task, pieces, SPLIT_CODES[split])
    if which.isdecimal():
        return _by_number(task, pieces, int(which), split)
    if match := _ROW_ID.fullmatch(which):
        return _by_id(task, pieces, match[1], int(match[2]))
    column, equals, value = which.partition("=")
    if not equals:
        column, value = task.key or "", which
    return _by_value(task, pieces, column, value)


def first_rows(task: Task, store: Store | None, number: int) -> Iterator[PickedRow]:
    """Yield the first rows of a task.

    Raises:
        SourceError: The rows cannot be read.
        StoreError: A file of the source has changed since it was built.
    """
    for piece in _pieces(task, store, str(number - 1)):
        for index in range(min(number, piece.table.num_rows)):
            yield piece.row(index)
        number -= piece.table.num_rows
        if number <= 0:
            return


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows: their partition, their positions in it or in the source, and their columns."""

    partition: str
    offsets: npt.NDArray[np.int64]
    table: Any

    def row(self, index: int) -> PickedRow:
        offset = str(self.offsets[index])
        row = f"{self.partition}:{offset}" if self.partition else offset
        return PickedRow(row=row, table=self.table.slice(index, 1))


def _pieces(
    task: Task, store: Store | None, which: str, split: Split | None = None
) -> Iterator[_Piece]:
    source = task.named_source()
    if store is not None and source.name in store.sources():
        record = store.source(source.name)
        for partition in record.partitions:
            first = 0
            for batch in read_batches(store, record, partition.id):
                offsets = np.arange(first, first := first + batch.num_rows)
                yield _Piece(partition.id, offsets, pa.Table.from_batches([batch]))
        return
    number = int(which) + 1 if which.isdecimal() and split is None else MAX_UNBUILT
    table = read_head(source.data, number, name=source.name)
    yield _Piece("", np.arange(table.num_rows), table)


def _of_split(plan: Plan, task: Task, pieces: Iterator[_Piece], code: int) -> Iterator[_Piece]:
    inputs = plan.documents(task.name)[0].inputs
    keeps = [value for port, value in inputs.items() if port.startswith("keep.")]
    execution = host_execution(plan, [value.node for value in (inputs["split"], *keeps)])
    for piece in pieces:
        values, _ = execution.run(as_batch(piece.table, execution))
        # A filter that could not be computed leaves no row out.
        kept = [values[Value(keep.node)].fill_null(True) for keep in keeps]  # noqa: FBT003 - Arrow's way
        splits = np.asarray(values[inputs["split"]].fill_null(255))
        where = np.flatnonzero(np.logical_and.reduce([splits == code, *map(np.asarray, kept)]))
        yield _Piece(piece.partition, piece.offsets[where], piece.table.take(where))


def _by_number(task: Task, pieces: Iterator[_Piece], number: int, split: Split | None) -> PickedRow:
    seen = 0
    for piece in pieces:
        if number < seen + piece.table.num_rows:
            return piece.row(number - seen)
        seen += piece.table.num_rows
    rows = f"{seen:,} row{'s'[: seen != 1]}" + ("" if split is None else f" in split {split}")
    raise _unknown(task, str(number), f"it has {rows}, numbered from 0")


def _by_id(task: Task, pieces: Iterator[_Piece], partition: str, offset: int) -> PickedRow:
    known: dict[str, None] = {}
    for piece in pieces:
        known[piece.partition] = None
        if piece.partition.startswith(partition) and len(piece.offsets):
            found = np.flatnonzero(piece.offsets == offset)
            if len(found):
                return piece.row(int(found[0]))
    known.pop("", None)
    help_ = f"its partitions are {_some(list(known))}" if known else "row ids are given by a build"
    raise _unknown(task, f"{partition}:{offset}", help_)


def _by_value(task: Task, pieces: Iterator[_Piece], column: str, value: str) -> PickedRow:
    known: Sequence[str] = ()
    for piece in pieces:
        known = [name for name in piece.table.column_names if name != SPLIT_COLUMN]
        if column not in known:
            break
        for index, found in enumerate(piece.table.column(column).to_pylist()):
            if str(found) == value:
                return piece.row(index)
    else:
        raise _unknown(task, value, f"no row has it in column {column}")
    help_ = f"give a number, a row id, or column=value; columns are {', '.join(known)}"
    raise _unknown(task, value, help_)


def _unknown(task: Task, which: str, help_: str) -> ProjectError:
    message = f'task "{task.name}" has no row {which}'
    return ProjectError(Problem("T0816", message, help_, address=task.name))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
