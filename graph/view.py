"""A planned graph as plain data: the one description that every view reads.

`make_view` gives a `View`, which is JSON: text plan, page and pictures are functions of it and of
nothing else, so the graph they draw is the graph that runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final, cast

from .graph import Graph
from .measure import Measure
from .node import Node, NodeId, Value
from .op import Catalogue, Plain, canonical
from .passes.cut import Stage
from .passes.segment import Segment
from .preview import PreviewView
from .view_form import (
    VIEW_FORMAT,
    EdgeView,
    InstructionView,
    LaneView,
    MeasureView,
    NodeView,
    OutputView,
    ResultView,
    SegmentView,
    SiteView,
    StateView,
    Status,
    View,
)

LANES: Final[Mapping[Stage, str]] = {
    Stage.OFFLINE: "host, once per row, by Dask into the store",
    Stage.ONLINE: "host, every epoch, by the loader",
    Stage.DEVICE: "one compiled program, every step",
}
"""The lanes of a view from top to bottom: each stage, and what happens there."""


@dataclass(frozen=True, slots=True)
class State:
    """Whether what a node makes is in the store, and why."""

    status: Status
    why: str = ""


def make_view(  # noqa: PLR0913 - all but the graph are named, and most are optional
    graph: Graph,
    *,
    title: str,
    stages: Mapping[NodeId, Stage],
    stored: Mapping[Value, str] | None = None,
    segments: Sequence[Segment] = (),
    states: Mapping[NodeId, State] | None = None,
    instructions: Mapping[str, str] | None = None,
    catalogue: Catalogue | None = None,
    measures: Mapping[NodeId, Measure] | None = None,
    previews: Mapping[NodeId, Sequence[PreviewView]] | None = None,
    project: str = "",
    remarks: Sequence[str] = (),
) -> View:
    """Return the view of ``graph``.

    Args:
        graph: The planned graph.
        title: What the graph is of, such as the name of a task or a mixture.
        stages: The stage of every node.
        stored: The values that become columns, each with the reason.
        segments: The groups of nodes that run in one Dask task.
        states: What the store holds, if somebody looked; stored nodes it leaves out are unknown.
        instructions: Instructions by label; those that only sites name are added.
        catalogue: The ops, to tell default parameters from others; without it none is a default.
        measures: The figures of nodes that ran.
        previews: Samples of what nodes gave. They show values of rows, so whoever hands them in has been
            asked to.
        project: What `taskloom` takes to make this graph: the path of a file, or an instruction.
        remarks: Sentences about the whole, such as where ``measures`` come from.
    """
    numbers = {node.id: number for number, node in enumerate(graph)}
    texts = dict(instructions or {})
    for site in sorted(site for node in graph for site in node.note.sites):
        texts.setdefault(site.label, site.text)
    labels = {label: number for number, label in enumerate(texts)}
    columns = stored or {}
    seconds = _sum_seconds(stages, measures or {})
    tasks = {node: i for i, one in enumerate(segments) for node in one.nodes if node.rows}
    return View(
        format=VIEW_FORMAT,
        title=title,
        project=project,
        digest=hashlib.sha256("\n".join(sorted(map(str, numbers))).encode()).hexdigest()[:12],
        lanes=[
            LaneView(stage=stage, about=about)
            for stage, about in LANES.items()
            if any(stages[node] is stage for node in numbers)
        ],
        nodes=[
            NodeView(
                address=node.address,
                addresses=sorted(node.note.addresses),
                op=node.op,
                version=node.version,
                params=json.loads(json.dumps(node.params)),
                changed=_changed(node, catalogue),
                outputs=_outputs(node, columns),
                key=node.key,
                rows=node.id.rows,
                stage=stages[node.id],
                segment=tasks.get(node.id),
                scope=node.scope,
                state=_state(node, columns, states),
                measure=_measure((measures or {}).get(node.id), seconds[stages[node.id]]),
                previews=list((previews or {}).get(node.id, ())),
                change=None,
                sites=_sites(node, labels),
            )
            for node in graph
        ],
        edges=[
            EdgeView(
                maker=numbers[value.node],
                output=value.port,
                user=numbers[node.id],
                input=port,
                change=None,
            )
            for node in graph
            for port, value in node.inputs.items()
        ],
        segments=[SegmentView(rows=one.rows, in_process=one.needs_process) for one in segments],
        results=[
            ResultView(name=name, node=numbers[value.node], port=value.port)
            for name, value in graph.outputs.items()
        ],
        instructions=[InstructionView(label=label, text=text) for label, text in texts.items()],
        remarks=list(remarks),
        diff=None,
    )


def _changed(node: Node, catalogue: Catalogue | None) -> list[str]:
    op = (catalogue or {}).get(node.op)
    if op is None:
        return list(node.params)
    defaults: dict[str, Plain] = {}
    for field in fields(cast("Any", op)):
        if field.default is not MISSING:
            defaults[field.name] = canonical(field.default, field.name)
        elif field.default_factory is not MISSING:
            defaults[field.name] = canonical(field.default_factory(), field.name)
    return [
        name
        for name, value in node.params.items()
        if name not in defaults or defaults[name] != value
    ]


def _outputs(node: Node, columns: Mapping[Value, str]) -> list[OutputView]:
    return [
        OutputView(
            port=port,
            type=str(type_),
            stored=columns.get(Value(node.id, port)),
            bytes_per_row=type_.row_bytes,
        )
        for port, type_ in node.types.items()
    ]


def _state(
    node: Node, columns: Collection[Value], states: Mapping[NodeId, State] | None
) -> StateView | None:
    if states is None:
        return None
    state = states.get(node.id)
    if state is None and any(Value(node.id, port) in columns for port in node.types):
        state = State(Status.UNKNOWN)
    return StateView(status=state.status, why=state.why) if state else None


def _sum_seconds(
    stages: Mapping[NodeId, Stage], measures: Mapping[NodeId, Measure]
) -> dict[Stage, float]:
    seconds = dict.fromkeys(Stage, 0.0)
    for node, measure in measures.items():
        if node in stages:
            seconds[stages[node]] += measure.seconds
    return seconds


def _measure(measure: Measure | None, stage_seconds: float) -> MeasureView | None:
    if measure is None:
        return None
    share = measure.seconds / stage_seconds if stage_seconds else 0.0
    return cast("MeasureView", asdict(measure) | {"share": share})


def _sites(node: Node, labels: Mapping[str, int]) -> list[SiteView]:
    return [
        SiteView(instruction=labels[site.label], start=site.span.start, stop=site.span.stop)
        for site in sorted(node.note.sites)
    ]
