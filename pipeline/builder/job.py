"""Jobs: what one Dask task is given to do, and nothing more.

A job carries a small graph, the description of the partitions it reads, and no samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...graph.errors import OpError, TaskloomError
from ...graph.graph import Graph
from ...graph.node import NodeId, Value
from ...ops.catalogue import host_catalogue
from ...storage.record import Partition, SourceRecord
from ...storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPart:
    """What one fit reads of one source.

    Attributes:
        node: The node of the fit.
        address: Where it stands.
        op: Its op.
        params: The op's parameters.
        groups: Values that are observed together, by the argument they feed.
    """

    node: NodeId
    address: str
    op: str
    params: Mapping[str, Any]
    groups: tuple[Mapping[str, Value], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One segment over one partition, or what fits learn from over a few.

    Attributes:
        name: What it works on, for people; many jobs share it.
        store: The store.
        source: The source, of which only the partitions of the job are known here.
        graph: The nodes to run; its outputs are the values to store.
        needs_process: Whether it runs in a process of its own.
        fits: The fits that learn from the values.
        keeps: The filters of each task that reads the values: a bad row that no task keeps is nobody's loss.
        raises: Whether a bad row, or a partition that cannot be read, ends the build at once.
    """

    name: str
    store: Store
    source: SourceRecord
    graph: Graph
    needs_process: bool
    fits: tuple[FitPart, ...] = ()
    keeps: tuple[tuple[Value, ...], ...] = ((),)
    raises: bool = False

    @property
    def partition(self) -> str:
        """Id of the first partition."""
        return self.source.partitions[0].id

    @property
    def place(self) -> str:
        """The first partition, for messages."""
        return self.place_of(self.source.partitions[0])

    @property
    def rows(self) -> int:
        """Rows of the partitions."""
        return sum(partition.rows for partition in self.source.partitions)

    @property
    def values(self) -> tuple[Value, ...]:
        """The values to store."""
        return tuple(self.graph.outputs.values())

    def locate(self, error: TaskloomError, done: int) -> TaskloomError:
        """Return ``error`` with the partition filled in, and the nodes that may be at fault.

        Args:
            error: What was raised.
            done: Rows of the job that were behind it by then.
        """
        here, *later = self.source.partitions
        for partition in later:
            if done < here.rows:
                break
            done -= here.rows
            here = partition
        place = self.place_of(here)
        error = error.at(row=f"{place}:{done} or later" if done else place)
        if not isinstance(error, OpError):
            return error
        isolated = [node for node in self.graph if host_catalogue()[node.op].traits.is_isolated]
        nodes = isolated or [self.graph.nodes[value.node] for value in self.values]
        sites = {site for node in nodes for site in node.note.sites}
        address = ", ".join(node.address for node in nodes)
        return error.at(address=address, sites=tuple(sorted(sites)))

    def fail(self, error: TaskloomError) -> JobFailure:
        """Return what came of the job where ``error`` did."""
        return JobFailure(name=self.name, place=self.place, rows=self.rows, error=error)

    def place_of(self, partition: Partition) -> str:
        """Return source and partition, for messages."""
        return f"{self.source.name}/{partition.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailure:
    """What comes of a job whose partition cannot be built, while others can.

    Attributes:
        name: What the job worked on.
        place: Source and partition.
        rows: Rows of the partition.
        error: Why.
    """

    name: str
    place: str
    rows: int
    error: TaskloomError


def only_partitions(record: SourceRecord, numbers: Sequence[int]) -> SourceRecord:
    """Return ``record`` as if it had no other partitions, so that a job does not carry all of them."""
    partitions = [record.partitions[number] for number in numbers]
    places = {
        number: place for place, number in enumerate(dict.fromkeys(p.file for p in partitions))
    }
    return replace(
        record,
        partitions=tuple(replace(part, file=places[part.file]) for part in partitions),
        files=tuple(record.files[number] for number in places),
    )
