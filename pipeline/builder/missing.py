"""What a store lacks of a plan: partitions of columns, and the jobs that compute them.

A store is asked once for each column. Jobs are made one after the other, when somebody is there to run them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ...graph.graph import Graph
from ...graph.node import NodeId, Value
from ...graph.passes.segment import Segment
from ...storage.record import SourceRecord
from ...storage.store import Store
from ..planner.planning import Filters, Plan
from .job import Job, only_partitions

_MAX_NAMED = 2
"""Columns that the name of a segment lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """What one segment has to compute.

    Attributes:
        name: The columns of the segment, for people.
        segment: The segment.
        record: The source.
        values: The values that are missing, by the id of each partition that lacks any.
    """

    name: str
    segment: Segment
    record: SourceRecord
    values: Mapping[str, tuple[Value, ...]]

    @property
    def rows(self) -> int:
        """Rows to go through."""
        return sum(self.record.partition(partition).rows for partition in self.values)

    def jobs(self, planned: Plan, filters: Filters, store: Store, *, raises: bool) -> Iterator[Job]:
        """Yield a job for each partition that lacks something."""
        graphs: dict[tuple[Value, ...], Graph] = {}
        for number, partition in enumerate(self.record.partitions):
            if not (values := self.values.get(partition.id)):
                continue
            keeps = _keeps(values, filters)
            if values not in graphs:
                read = [value.node for value in (*values, *(k for task in keeps for k in task))]
                graphs[values] = part_of(planned.graph, read, values)
            yield Job(
                name=self.name,
                store=store,
                source=only_partitions(self.record, [number]),
                graph=graphs[values],
                needs_process=self.segment.needs_process and store.folder.is_shared,
                keeps=keeps,
                raises=raises,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Everything that a build has to compute.

    Attributes:
        lacks: What each segment lacks; those that lack nothing are left out.
        partitions: Partitions of columns that are missing.
        cached: Those that are there.
    """

    lacks: tuple[Lack, ...]
    partitions: int
    cached: int

    @property
    def rows(self) -> int:
        """Rows of sources that something is missing for, each counted once."""
        places = {
            (lack.record.name, partition): lack.record.partition(partition).rows
            for lack in self.lacks
            for partition in lack.values
        }
        return sum(places.values())

    def count(self) -> dict[Value, int]:
        """Return how many rows each value lacks."""
        rows: dict[Value, int] = {}
        for lack in self.lacks:
            for partition, values in lack.values.items():
                for value in values:
                    rows[value] = rows.get(value, 0) + lack.record.partition(partition).rows
        return rows

    def jobs(self, planned: Plan, store: Store, *, raises: bool) -> Iterator[Job]:
        """Yield a job for each partition of each segment that lacks something.

        Args:
            planned: The plan.
            store: Where to.
            raises: As in `Job`.
        """
        filters = planned.filters()
        for lack in self.lacks:
            yield from lack.jobs(planned, filters, store, raises=raises)

    def first_jobs(self, planned: Plan, store: Store) -> Iterator[Job]:
        """Yield the first job of each segment."""
        filters = planned.filters()
        for lack in self.lacks:
            yield from islice(lack.jobs(planned, filters, store, raises=False), 1)


def find_missing(planned: Plan, records: Mapping[str, SourceRecord], store: Store) -> Missing:
    """Return what ``store`` lacks of ``planned``."""
    lacks: list[Lack] = []
    num_missing = num_all = 0
    for segment in planned.segments:
        record = records[segment.rows]
        partitions = [partition.id for partition in record.partitions]
        found: dict[str, list[Value]] = {}
        for value in segment.stored:
            for partition in store.missing(segment.rows, value.column_id, partitions):
                found.setdefault(partition, []).append(value)
        # Partitions that lack the same share what says so: there may be many.
        same: dict[tuple[Value, ...], tuple[Value, ...]] = {}
        values = {p: same.setdefault(key := tuple(each), key) for p, each in found.items()}
        num_all += len(partitions) * len(segment.stored)
        num_missing += sum(map(len, values.values()))
        if values:
            name = _name(planned.graph, segment)
            lacks.append(Lack(name=name, segment=segment, record=record, values=values))
    return Missing(lacks=tuple(lacks), partitions=num_missing, cached=num_all - num_missing)


def part_of(graph: Graph, nodes: Sequence[NodeId], values: Sequence[Value] = ()) -> Graph:
    """Return the part of ``graph`` that ``nodes`` need, which gives ``values``."""
    needed = graph.needs(Value(node) for node in nodes)
    outputs = {f"column-{i}": value for i, value in enumerate(values)}
    return Graph({node.id: node for node in needed}, outputs)


def _name(graph: Graph, segment: Segment) -> str:
    addresses = [graph.nodes[value.node].address for value in segment.stored]
    shown = ", ".join(addresses[:_MAX_NAMED])
    left = len(addresses) - _MAX_NAMED
    return f"{shown} and {left} more" if left > 0 else shown


def _keeps(values: Sequence[Value], filters: Filters) -> tuple[tuple[Value, ...], ...]:
    """Return the filters of each task that reads one of ``values``; none at all if a task takes every row."""
    keeps = dict.fromkeys(keep for value in values for keep in filters.get(value, [()]))
    return ((),) if () in keeps else tuple(keeps)
