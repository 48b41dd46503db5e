"""Fold: what is the same for every row is computed once, at plan time, and stored with no row.

A constant can be folded when everything it is made of is known. Ids of plain text are, as soon as their
tokenizer is: at once when it is a file, after the fit when it is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..graph import Graph
from ..node import Node, NodeId
from ..op import Catalogue, parameters
from ..type import Layout, Place
from .merge import merge

Evaluate = Callable[[Graph, Node], Sequence[int] | None]
"""Returns the ids that a constant node stands for, or None while they cannot be known."""


def fold(graph: Graph, catalogue: Catalogue, evaluate: Evaluate) -> Graph:
    """Return ``graph`` with the constant ids that documents read replaced by their values.

    What the values were computed from stays, for `prune` to drop.
    """
    replaced: dict[NodeId, Node] = {}
    users = graph.users()
    for node in graph:
        if not _is_foldable(node) or all(map(_is_foldable, users[node.id])):
            continue
        if (ids := evaluate(graph, node)) is not None:
            type_ = node.type
            op = catalogue["make_ids"](ids=tuple(ids), kind=type_.kind, dtype=type_.dtype)
            replaced[node.id] = replace(
                node,
                op=op.traits.name,
                version=op.traits.version,
                params=parameters(op),
                inputs={},
            )
    return merge(graph, replaced) if replaced else graph


def _is_foldable(node: Node) -> bool:
    if len(node.types) != 1 or not node.inputs:
        return False
    type_ = node.type
    return (
        type_.place is Place.HOST
        and type_.layout is Layout.CONST
        and type_.dtype.startswith("uint")
    )
