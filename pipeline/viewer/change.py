"""Changes: in what a node is otherwise computed than a node that stood in its place before.

Only what differs by itself is told, from the source on: a node whose inputs changed has not changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...graph.graph import Graph
from ...graph.node import Node, NodeId, Value

What: TypeAlias = Literal["parameter", "version", "op", "added", "removed", "artifact", "input"]

_MAX_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference.

    Attributes:
        address: The node, as it is called now.
        what: A parameter; the version of an op; another op, or one more or one less; an artifact; an input.
        name: Name of the parameter, op, artifact or input.
        was: What it was; empty where there was none.
        now: What it is; empty where there is none.
    """

    address: str
    what: What
    name: str
    was: str = ""
    now: str = ""

    def __str__(self) -> str:
        match self.what:
            case "parameter":
                return f"{self.address}: {self.name} was {_clip(self.was)}, is {_clip(self.now)}"
            case "version":
                return f"{self.address}: version of {self.name} was {self.was}, is {self.now}"
            case "op":
                return f"{self.address} was {self.was}, is {self.now}"
            case "artifact":
                return f"{self.name} {'was fitted' if self.now else 'is to be fitted'} again"
            case "added" | "removed":
                return f"{self.address}: {self.name} was {'added' if self.now else 'left out'}"
            case "input":
                return (
                    f"{self.address}: input {self.name} was {'added' if self.now else 'left out'}"
                )


def find_changes(graph: Graph, now: NodeId, before: Graph, was: NodeId) -> tuple[Change, ...]:
    """Return in what node ``now`` of ``graph`` and node ``was`` of ``before`` differ, from the source on."""
    return tuple(dict.fromkeys(_Comparison(graph, before).compare(now, was)))


def tell_changes(changes: tuple[Change, ...]) -> str:
    """Return ``changes`` as one line, parameters of one node together."""
    told: list[str] = []
    for change in changes:
        head = f"{change.address}: "
        is_more = bool(told) and change.what == "parameter" and told[-1].startswith(head)
        if is_more and ": version of " not in told[-1]:
            told[-1] += f", {str(change).removeprefix(head)}"
        else:
            told.append(str(change))
    return "; ".join(told)


class _Comparison:
    """Two graphs; pairs of nodes that were compared are not compared again."""

    def __init__(self, graph: Graph, before: Graph) -> None:
        self._graph = graph
        self._before = before
        self._seen: set[tuple[NodeId, NodeId]] = set()

    def compare(self, now: NodeId, was: NodeId) -> Iterator[Change]:
        if now.key == was.key or (now, was) in self._seen:
            return
        self._seen.add((now, was))
        node, before = self._graph.nodes[now], self._before.nodes[was]
        if before.op == "load_artifacts":
            is_loaded = node.op == before.op and bool(node.params["digest"])
            yield _change(node, "artifact", node.address, "before", "now" if is_loaded else "")
        elif node.op == before.op:
            for port, value in node.inputs.items():
                if port in before.inputs:
                    yield from self.compare(value.node, before.inputs[port].node)
            yield from _own_changes(node, before)
        else:
            yield self._other_op(node, before)

    def _other_op(self, node: Node, before: Node) -> Change:
        """Return the change of a place where another op stands; one that reads what stood there was added."""
        if before.key in {made.key for made in self._graph.needs([Value(node.id)])}:
            return _change(node, "added", node.op, "", node.op)
        if node.key in {made.key for made in self._before.needs([Value(before.id)])}:
            return _change(node, "removed", before.op, before.op, "")
        return _change(node, "op", node.op, before.op, node.op)


def _own_changes(node: Node, before: Node) -> Iterator[Change]:
    if node.version != before.version:
        yield _change(node, "version", node.op, str(before.version), str(node.version))
    for name in dict.fromkeys([*before.params, *node.params]):
        was, now = before.params.get(name), node.params.get(name)
        if was != now:
            yield _change(node, "parameter", name, str(was), str(now))
    for port in dict.fromkeys([*before.inputs, *node.inputs]):
        if (port in before.inputs) != (port in node.inputs):
            is_new = port in node.inputs
            yield _change(node, "input", port, "" if is_new else port, port if is_new else "")


def _change(node: Node, what: What, name: str, was: str, now: str) -> Change:
    return Change(address=node.address, what=what, name=name, was=was, now=now)


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
