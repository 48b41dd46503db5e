"""History: what each pass has done to a graph, as plain data, and as lines that a person can compare.

In these lines a node is called by its address, not by its key: a pass that changes one node changes the keys of
all that follows, and a reader wants to see the one. What only got another key is counted apart, as *renamed*.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, TypedDict

from ..graph import Graph
from ..node import Node, NodeId, Value
from .cut import Cut, Stage
from .segment import Segment
from .sequence import Step

HISTORY_FORMAT: Final = 1


class LineView(TypedDict):
    """A node that a pass removed or added."""

    address: str
    key: str
    text: Annotated[str, "Op, parameters, what it reads, and types."]


class RenamedView(TypedDict):
    """A node that is the same work on something that changed."""

    address: str
    before: Annotated[str, "Its key before the pass."]
    after: Annotated[str, "Its key after the pass."]


class PassView(TypedDict):
    """What one pass did."""

    name: str
    nodes: Annotated[int, "How many nodes there are after it."]
    skipped: Annotated[str | None, "Why it changed nothing, if it failed."]
    removed: list[LineView]
    added: list[LineView]
    renamed: list[RenamedView]


class StoredView(TypedDict):
    """A value that becomes a column."""

    address: str
    column: Annotated[str, "Its name in the store."]
    reason: str


class SegmentView(TypedDict):
    """Nodes that one Dask task runs over one partition."""

    rows: str
    in_process: bool
    nodes: Annotated[list[str], "Addresses in order."]
    stored: Annotated[list[str], "Addresses of what it stores."]


class History(TypedDict):
    """What became of a graph from pass to pass."""

    format: int
    title: str
    passes: Annotated[list[PassView], "The first is the graph as it was planned."]
    stages: Annotated[dict[Stage, int], "How many nodes the cut put in each stage."]
    stored: list[StoredView]
    segments: list[SegmentView]


def make_history(
    steps: Sequence[Step],
    cut: Cut,
    segments: Iterable[Segment],
    *,
    title: str,
    reasons: Mapping[Value, str] | None = None,
) -> History:
    """Return what became of a graph.

    Args:
        steps: The graph as it was planned, and after each pass.
        cut: Where the last graph is cut.
        segments: What one Dask task runs.
        title: What the graph is of.
        reasons: Why each stored value is stored; the cut's own reasons if not given.
    """
    last = steps[-1].graph
    names = call_nodes(last)
    stages = [*cut.stages.values()]
    return History(
        format=HISTORY_FORMAT,
        title=title,
        passes=[
            _view_pass(before.graph, after)
            for before, after in zip([steps[0], *steps], steps, strict=False)
        ],
        stages={stage: stages.count(stage) for stage in Stage},
        stored=[
            StoredView(address=_call(value, names), column=value.column_id, reason=reason)
            for value, reason in (cut.reasons() if reasons is None else reasons).items()
        ],
        segments=[
            SegmentView(
                rows=one.rows,
                in_process=one.needs_process,
                nodes=[names[node] for node in one.nodes],
                stored=[_call(value, names) for value in one.stored],
            )
            for one in segments
        ],
    )


def call_nodes(graph: Graph) -> dict[NodeId, str]:
    """Return what each node is called: its address, numbered where several share one."""
    counts: dict[str, int] = {}
    names: dict[NodeId, str] = {}
    for node in graph:
        number = counts[node.address] = counts.get(node.address, 0) + 1
        names[node.id] = node.address if number == 1 else f"{node.address}#{number}"
    return names


def write_cut(graph: Graph, cut: Cut) -> str:
    """Return the stage of every node as lines, and below it why what it gives is stored."""
    names = call_nodes(graph)
    reasons: dict[NodeId, list[str]] = {}
    for value, reason in cut.reasons().items():
        port = "" if value.port == "out" else f" {value.port}"
        reasons.setdefault(value.node, []).append(f"  stored{port}: {reason}")
    lines = [
        line
        for node in graph
        for line in (f"{cut.stages[node.id]} {names[node.id]}", *reasons.get(node.id, ()))
    ]
    return "\n".join(lines) + "\n"


def write_segments(graph: Graph, segments: Iterable[Segment]) -> str:
    """Return segments as lines: the source, where each runs, its nodes, and what it stores."""
    names = call_nodes(graph)
    lines: list[str] = []
    for one in segments:
        lines.append(f"{one.rows} in a {'process' if one.needs_process else 'thread'}")
        stored = {value.node for value in one.stored}
        lines += [f"  {names[n]}{' (stored)' if n in stored else ''}" for n in one.nodes]
    return "\n".join(lines) + "\n"


def _view_pass(before: Graph, step: Step) -> PassView:
    after = step.graph
    gone = {node.id: node for node in before if node.id not in after.nodes}
    new = {node.id: node for node in after if node.id not in before.nodes}
    moved = dict(_pair(gone.values(), new.values()))
    kept = set(moved.values())
    return PassView(
        name=step.name,
        nodes=len(after),
        skipped=None if step.skipped is None else step.skipped.message,
        removed=_lines(before, [node for node in gone.values() if node.id not in moved]),
        added=_lines(after, [node for node in new.values() if node.id not in kept]),
        renamed=[
            RenamedView(address=after.nodes[new].address, before=old.key, after=new.key)
            for old, new in moved.items()
        ],
    )


def _pair(gone: Iterable[Node], new: Iterable[Node]) -> Iterable[tuple[NodeId, NodeId]]:
    """Yield the nodes that do the same work at the same place, on other inputs."""
    places = {(address, _work(node)): node.id for node in new for address in node.note.addresses}
    for node in gone:
        work = _work(node)
        found = (places.get((address, work)) for address in sorted(node.note.addresses))
        if (match := next(filter(None, found), None)) is not None:
            yield node.id, match


def _work(node: Node) -> str:
    return json.dumps(
        [node.op, node.version, node.params, node.scope, node.id.rows, [*node.inputs]]
    )


def _lines(graph: Graph, nodes: Sequence[Node]) -> list[LineView]:
    if not nodes:
        return []
    names = call_nodes(graph)
    return [
        LineView(address=names[node.id], key=node.key, text=_describe(node, names))
        for node in nodes
    ]


def _describe(node: Node, names: Mapping[NodeId, str]) -> str:
    params = [
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in node.params.items()
    ]
    inputs = [f"{port}={_call(value, names)}" for port, value in node.inputs.items()]
    types = [
        str(type_) if port == "out" else f"{port}: {type_}" for port, type_ in node.types.items()
    ]
    return f"{' '.join([node.op, *params])} ({', '.join(inputs)}) -> {'; '.join(types)}"


def _call(value: Value, names: Mapping[NodeId, str]) -> str:
    name = names[value.node]
    return name if value.port == "out" else f"{name}:{value.port}"
