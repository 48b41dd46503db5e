"""What a diff compares: a project, an instruction, a saved view, or the text of a saved graph."""

from __future__ import annotations

from ...graph.diff import Holdings
from ...graph.graph import Graph
from ...graph.node import NodeId
from ...graph.passes.cut import cut
from ...graph.passes.segment import segment
from ...graph.text import HEADER
from ...graph.view import make_view
from ...graph.view_form import NodeView, View
from ...ops.catalogue import whole_catalogue
from ...storage.column import read_receipt
from ...storage.store import Store


def is_graph(text: str) -> bool:
    """Whether ``text`` is a graph, as far as its first line tells."""
    return text.startswith(HEADER)


def view_graph(text: str, title: str) -> View:
    """Return the view of a graph that was written as text.

    Raises:
        TaskloomError: The text is no graph, or one of ops that are not known here.
    """
    graph = Graph.parse(text)
    catalogue = whole_catalogue()
    stages = cut(graph, catalogue)
    return make_view(
        graph,
        title=title,
        stages=stages.stages,
        stored=stages.stored,
        segments=segment(graph, stages, catalogue),
        catalogue=catalogue,
    )


def read_holdings(view: View, store: Store) -> Holdings:
    """Return the rows of the sources of ``store``, and the bytes of the columns of ``view`` in it."""
    return Holdings(
        rows={name: store.source(name).num_rows for name in store.sources()},
        bytes={
            NodeId(node["key"], node["rows"]): size
            for node in view["nodes"]
            if (size := _measure(node, store))
        },
    )


def _measure(node: NodeView, store: Store) -> int:
    keys = [
        node["key"] if output["port"] == "out" else f"{node['key']}-{output['port']}"
        for output in node["outputs"]
        if output["stored"] is not None
    ]
    receipts = [
        receipt
        for key in keys
        for partition in store.committed(node["rows"], key)
        if (receipt := read_receipt(store, node["rows"], key, partition)) is not None
    ]
    return sum(file.bytes for receipt in receipts for file in receipt.files)
