"""Segment: group neighbouring offline nodes over the same source, to run in one Dask task.

Every node keeps its name, time and errors. Segments are a matter of execution and appear in no key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..graph import Graph
from ..node import NodeId, Value
from ..op import Catalogue, Rows
from ..type import source_of
from .cut import Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Nodes that one Dask task runs over one partition.

    Attributes:
        rows: Name of the source, whose rows and their items the nodes are over.
        nodes: The nodes in order.
        stored: The values that are written.
        needs_process: Whether it runs in a worker process rather than in a thread.
    """

    rows: str
    nodes: tuple[NodeId, ...]
    stored: tuple[Value, ...]
    needs_process: bool


def segment(graph: Graph, cut: Cut, catalogue: Catalogue) -> tuple[Segment, ...]:
    """Return the segments of ``graph``: connected nodes over one source that lead to a stored value.

    A fit stands in the segments that read what it gives, but what it learns from does not.
    """
    fits = {node.id for node in graph if catalogue[node.op].traits.rows is Rows.FIT}
    leader: dict[NodeId, NodeId] = {}
    for node in _reach(graph, cut.stored, fits):
        for value in graph.nodes[node].inputs.values():
            if node.rows and value.node.rows and node not in fits:
                leader[_find(leader, value.node)] = _find(leader, node)
    groups: dict[NodeId, list[Value]] = {}
    for value in cut.stored:
        groups.setdefault(_find(leader, value.node), []).append(value)
    order = {node: position for position, node in enumerate(graph.nodes)}
    return tuple(
        Segment(
            rows=source_of(values[0].node.rows),
            nodes=(nodes := tuple(sorted(_reach(graph, values, fits), key=order.__getitem__))),
            stored=tuple(values),
            needs_process=any(
                node.rows and catalogue[graph.nodes[node].op].traits.needs_process for node in nodes
            ),
        )
        for values in groups.values()
    )


def _reach(graph: Graph, values: Iterable[Value], stops: Collection[NodeId]) -> dict[NodeId, None]:
    """Return the nodes that ``values`` need, not looking behind ``stops``."""
    found: dict[NodeId, None] = {}
    waiting = [value.node for value in values]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            if node not in stops:
                waiting += [value.node for value in graph.nodes[node].inputs.values()]
    return found


def _find(leader: Mapping[NodeId, NodeId], node: NodeId) -> NodeId:
    while (next_ := leader.get(node, node)) != node:
        node = next_
    return node
