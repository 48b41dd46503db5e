"""Rows that are answered at once: through the same host ops as in a build, and never stored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa

from ...graph.errors import Problem, SourceError, suggest
from ...graph.node import Value
from ...graph.type import source_of
from ...storage.array_column import ArrayColumn
from ...storage.values import to_table
from ..host.execute import Execution, LoadArtifact
from ..planner.planning import Plan

_CHUNK_ROWS = 1024
_CHUNK_BYTES = 32 << 20
"""Most rows, and about how many bytes of them, that are computed at a time."""


@dataclass(frozen=True, slots=True)
class RowReader:
    """Makes of rows what the documents of one task read.

    Attributes:
        execution: The host nodes.
        wanted: The values that documents read, by source and column.
    """

    execution: Execution
    wanted: Mapping[tuple[str, str], Value]

    @classmethod
    def make(cls, plan: Plan, task: str, load: LoadArtifact) -> Self:
        """Return the reader of ``task``, which is in ``plan``."""
        graph = plan.graph
        wanted = [*plan.stored_of(task), *plan.online_of(task)]
        nodes = [node.id for node in graph.needs(wanted)]
        names = {(source_of(v.node.rows), plan.column_of(task, v)): v for v in wanted}
        return cls(Execution(graph, nodes, plan.catalogue, load), names)

    def batches(self, rows: Sequence[Any]) -> Iterator[pa.RecordBatch]:
        """Yield the columns of ``rows`` that are read, some rows at a time.

        Raises:
            SourceError: No row has some column, or a row is no mapping.
        """
        read = self.execution.columns
        mappings = [row for row in rows if isinstance(row, Mapping)]
        known = dict.fromkeys(name for row in mappings for name in row)
        # Where nothing is a mapping no column is, and that is not what is wrong.
        if mappings and (missing := [column for column in read if column not in known]):
            raise SourceError(*(missing_column(column, known) for column in missing))
        # Other columns are left alone, whatever they hold; what is no mapping is refused with the rest.
        chosen = [
            {column: row[column] for column in read if column in row}
            if isinstance(row, Mapping)
            else row
            for row in rows
        ]
        table = to_table(chosen)
        size = max(1, min(_CHUNK_ROWS, len(rows) * _CHUNK_BYTES // max(table.nbytes, 1)))
        yield from table.to_batches(max_chunksize=size)

    def read(
        self, batch: pa.RecordBatch, first: int
    ) -> tuple[dict[tuple[str, str], ArrayColumn], dict[int, list[Problem]]]:
        """Return the columns that documents read, and the problems of rows that lack a value.

        Args:
            batch: Some rows.
            first: Number of the first of them among all.
        """
        values, failures = self.execution.run(batch)
        problems: dict[int, list[Problem]] = {}
        for failure in failures:
            placed = replace(failure.problem, row=str(first + failure.offset))
            problems.setdefault(failure.offset, []).append(placed)
        columns = {name: ArrayColumn(values[value]) for name, value in self.wanted.items()}
        return columns, problems


def missing_column(column: str, known: Collection[str]) -> Problem:
    """Return the problem of rows that lack ``column``."""
    message = f'the rows have no column "{column}"'
    return Problem("T0212", message, suggest(column, known), column=column)
