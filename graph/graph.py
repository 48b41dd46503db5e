"""A task, or many, as one typed graph.

Nodes are hash-consed: equal work over the same rows is one node, whichever tasks ask for it. A `Graph` that
exists is correct: types are checked as a `Draft` makes each node, and `Graph.parse` checks a text as strictly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .errors import PlanError, suggest
from .node import Node, NodeId, Value, plan_key
from .text import read_nodes, write_nodes
from .type import Type


@dataclass(frozen=True, slots=True)
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
        for node in self:
            if address in node.note.addresses:
                return node
        known = {a for node in self for a in node.note.addresses}
        raise PlanError.of("T0203", f'no node is at "{address}"', suggest(address, known))

    def __str__(self) -> str:
        return write_nodes(self.nodes, self.outputs)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Graph.parse, (str(self),)

    @staticmethod
    def parse(text: str) -> Graph:
        """Return the graph that ``str`` wrote as ``text``.

        Raises:
            PlanError: The text is no graph, or a node in it does not follow from its inputs.
        """
        graph = Graph(*read_nodes(text))
        graph.verify()
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

    def verify(self) -> None:
        """Check order, keys and edges once more; passes are verified with it in tests.

        Raises:
            PlanError: An invariant is broken; the message names the node.
        """
        seen: set[NodeId] = set()
        for node in self:
            for port, value in node.inputs.items():
                if value.node not in seen or value.port not in self.nodes[value.node].types:
                    raise PlanError.of(
                        "T0204", f"{node.address} reads {value} as {port}, which nothing makes"
                    )
            expected = plan_key(node.op, node.version, node.params, node.inputs, node.scope)
            if node.key != expected:
                raise PlanError.of(
                    "T0204", f"{node.address} has key {node.key}, its contents say {expected}"
                )
            seen.add(node.id)
        for name, value in self.outputs.items():
            if value.node not in seen:
                raise PlanError.of("T0204", f'output "{name}" is {value}, which nothing makes')
