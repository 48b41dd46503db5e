"""Prune: keep only what the outputs are computed from, so that only used columns are read."""

from __future__ import annotations

from ..graph import Graph


def prune(graph: Graph) -> Graph:
    """Return ``graph`` without the nodes that no output needs."""
    kept = {node.id for node in graph.needs(graph.outputs.values())}
    return Graph({node.id: node for node in graph if node.id in kept}, graph.outputs)
