"""Segment: group neighbouring offline nodes over the same rows, to run in one Dask task.

Every node keeps its name, time and errors. Segments are a matter of execution and appear in no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..graph import Graph, Node, NodeId, Value
from ..op import Catalogue
from .cut import Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Nodes that one Dask task runs over one partition.

    Attributes:
        rows: The row set, which is the name of the source.
        nodes: The nodes in order.
        stored: The values that are written.
        needs_process: Whether it runs in a worker process rather than in a thread.
    """

    rows: str
    nodes: tuple[NodeId, ...]
    stored: tuple[Value, ...]
    needs_process: bool


def segment(graph: Graph, cut: Cut, catalogue: Catalogue) -> tuple[Segment, ...]:
    """Return the segments of ``graph``: connected nodes over one row set that lead to a stored value."""
    chains = {value: graph.needs([value]) for value in cut.stored}
    leader: dict[NodeId, NodeId] = {}
    for value, chain in chains.items():
        for node in chain:
            if node.id.rows:
                leader[_find(leader, node.id)] = _find(leader, value.node)
    groups: dict[NodeId, list[Value]] = {}
    for value in chains:
        groups.setdefault(_find(leader, value.node), []).append(value)
    return tuple(_make(graph, values, catalogue) for values in groups.values())


def _make(graph: Graph, values: list[Value], catalogue: Catalogue) -> Segment:
    nodes = graph.needs(values)
    return Segment(
        rows=values[0].node.rows,
        nodes=tuple(node.id for node in nodes),
        stored=tuple(values),
        needs_process=any(_needs_process(node, catalogue) for node in nodes),
    )


def _needs_process(node: Node, catalogue: Catalogue) -> bool:
    traits = catalogue[node.op].traits
    return bool(node.id.rows) and (traits.is_isolated or not traits.releases_gil)


def _find(leader: Mapping[NodeId, NodeId], node: NodeId) -> NodeId:
    while (next_ := leader.get(node, node)) != node:
        node = next_
    return node
