"""Merge: give every node the key that its contents say, and make equal nodes one.

Plans are hash-consed as they are made; a pass that replaces nodes hands its replacements to `merge`, because
the keys of everything that follows them change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..graph import Graph
from ..node import Node, NodeId, Value, rekey

NOTHING: Mapping[NodeId, Node] = {}


def merge(graph: Graph, replaced: Mapping[NodeId, Node] = NOTHING) -> Graph:
    """Return ``graph`` with the nodes ``replaced``, keys renewed and equal nodes joined.

    A joined node keeps the addresses and sites of all nodes that it stands for; a node that nothing happens to
    stays the very node that it was.
    """
    renamed: dict[NodeId, NodeId] = {}
    rows: dict[str, str] = {}
    nodes: dict[NodeId, Node] = {}
    for old in graph:
        node = replaced.get(old.id, old)
        inputs = {port: _renamed(value, renamed) for port, value in node.inputs.items()}
        if node is not old or inputs != node.inputs:
            node = rekey(node, inputs, rows)
        known = nodes.get(node.id)
        nodes[node.id] = node if known is None else replace(known, note=known.note | node.note)
        renamed[old.id] = node.id
    outputs = {name: _renamed(value, renamed) for name, value in graph.outputs.items()}
    return Graph(nodes, outputs)


def _renamed(value: Value, renamed: Mapping[NodeId, NodeId]) -> Value:
    return Value(renamed[value.node], value.port)
