"""A task, or many, as one typed graph.

Nodes are hash-consed: equal work over the same rows is one node, whichever tasks ask for it. A `Graph` that
exists is correct: types are checked as a `Draft` makes each node, and `Graph.parse` checks a text as strictly
when it is given the ops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from .errors import PlanError, suggest
from .node import Node, NodeId, Value
from .op import Catalogue
from .text import read_nodes, write_nodes
from .type import Type
from .verify import verify_nodes


@dataclass(frozen=True)
class Graph:
    """Typed nodes in topological order, and the values that are wanted of them."""

    nodes: Mapping[NodeId, Node]
    outputs: Mapping[str, Value]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, address: str) -> Node:
        """Return the node at ``address``.

        Raises:
            PlanError: No node has that address.
        """
        if (node := self._at.get(address)) is not None:
            return node
        raise PlanError.of("T0203", f'no node is at "{address}"', suggest(address, self._at))

    def __str__(self) -> str:
        return write_nodes(self.nodes, self.outputs)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Graph.parse, (str(self),)

    @staticmethod
    def parse(text: str, catalogue: Catalogue | None = None) -> Graph:
        """Return the graph that ``str`` wrote as ``text``.

        Args:
            text: The text.
            catalogue: The ops, to check types and parameters by; without it they are believed, as those of
                a graph must be that was written by another version of the ops.

        Raises:
            PlanError: The text is no graph, or a node in it does not follow from its inputs.
        """
        graph = Graph(*read_nodes(text))
        graph.verify(catalogue)
        return graph

    def type_of(self, value: Value) -> Type:
        """Return the type of ``value``."""
        return self.nodes[value.node].types[value.port]

    def needs(self, values: Iterable[Value]) -> tuple[Node, ...]:
        """Return the nodes that ``values`` are computed from, in topological order."""
        found: dict[NodeId, Node] = {}
        waiting = [(value.node, False) for value in values][::-1]
        while waiting:
            node_id, is_ready = waiting.pop()
            node = self.nodes[node_id]
            if is_ready:
                found.setdefault(node_id, node)
            elif node_id not in found:
                waiting.append((node_id, True))
                waiting += [(v.node, False) for v in node.inputs.values() if v.node not in found]
        return tuple(found.values())

    def users(self) -> dict[NodeId, list[Node]]:
        """Return, per node, the nodes that read it."""
        users: dict[NodeId, list[Node]] = {node.id: [] for node in self}
        for node in self:
            for maker in {value.node for value in node.inputs.values()}:
                users[maker].append(node)
        return users

    def verify(self, catalogue: Catalogue | None = None, *, known: Graph | None = None) -> None:
        """Check order, keys and edges once more and, given the ops, parameters and types.

        Args:
            catalogue: The ops.
            known: A graph that was verified; what stands in it as well is not derived again.

        Raises:
            PlanError: An invariant is broken; the problem names the node.
        """
        verify_nodes(self.nodes, self.outputs, catalogue, known.nodes if known else {})

    @cached_property
    def _at(self) -> dict[str, Node]:
        """The node at each address, the first in order where several share one."""
        return {address: node for node in [*self][::-1] for address in node.note.addresses}
