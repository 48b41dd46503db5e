"""Jobs: what one Dask task is given to do, and nothing more.

A job carries a small graph, the description of one partition, and no samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..graph.errors import OpError, TaskloomError
from ..graph.graph import Graph
from ..graph.node import NodeId, Value
from ..ops.catalogue import host_catalogue
from ..storage.record import SourceRecord
from ..storage.store import Store


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
    """One segment over one partition.

    Attributes:
        store: The store.
        source: The source, of which only the one partition is known here.
        graph: The nodes to run; its outputs are the values to store.
        needs_process: Whether it runs in a process of its own.
        fits: The fits that learn from the values.
        keeps: The filters of each task that reads the values: a bad row that no task keeps is nobody's loss.
        raises: Whether a bad row ends the build instead of going to the ledger.
    """

    store: Store
    source: SourceRecord
    graph: Graph
    needs_process: bool
    fits: tuple[FitPart, ...] = ()
    keeps: tuple[tuple[Value, ...], ...] = ((),)
    raises: bool = False

    @property
    def partition(self) -> str:
        """Id of the partition."""
        return self.source.partitions[0].id

    @property
    def place(self) -> str:
        """The partition, for messages."""
        return f"{self.source.name}/{self.partition}"

    @property
    def rows(self) -> int:
        """Rows of the partition."""
        return self.source.partitions[0].rows

    @property
    def values(self) -> tuple[Value, ...]:
        """The values to store."""
        return tuple(self.graph.outputs.values())

    def locate(self, error: TaskloomError, done: int) -> TaskloomError:
        """Return ``error`` with the partition filled in, and the nodes that may be at fault."""
        error = error.at(row=f"{self.place}:{done} or later" if done else self.place)
        if not isinstance(error, OpError):
            return error
        isolated = [node for node in self.graph if host_catalogue()[node.op].traits.is_isolated]
        nodes = isolated or [self.graph.nodes[value.node] for value in self.values]
        sites = {site for node in nodes for site in node.note.sites}
        address = ", ".join(node.address for node in nodes)
        return error.at(address=address, sites=tuple(sorted(sites)))


def only_partition(record: SourceRecord, number: int) -> SourceRecord:
    """Return ``record`` as if it had no partition but one, so that a job does not carry all of them."""
    partition = record.partitions[number]
    file = record.files[partition.file]
    return replace(record, partitions=(replace(partition, file=0),), files=(file,))
