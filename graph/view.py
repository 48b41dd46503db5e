"""A planned graph as plain data: the one description that every view reads.

`make_view` gives a `View`, which is JSON: text plan, page and pictures are functions of it and of
nothing else, so the graph they draw is the graph that runs. Nodes are numbered by their place in
the list; edges, and whatever else points at a node, use that number.

Words that users wrote (prompts, columns, titles) stand here as they were written: each view escapes
them for the place where it shows them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, Final, TypedDict, cast

from .graph import Graph
from .measure import Measure
from .node import Node, NodeId, Value
from .op import Catalogue, Plain, canonical
from .passes.cut import Stage
from .passes.segment import Segment
from .preview import PreviewView

VIEW_FORMAT: Final = 2

LANES: Final[Mapping[Stage, str]] = {
    Stage.OFFLINE: "host, once per row, by Dask into the store",
    Stage.ONLINE: "host, every epoch, by the loader",
    Stage.DEVICE: "one compiled program, every step",
}
"""The lanes of a view from top to bottom: each stage, and what happens there."""


class Status(StrEnum):
    """Whether what a node makes is in the store."""

    CACHED = "cached"
    STALE = "stale"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class State:
    """Whether what a node makes is in the store, and why."""

    status: Status
    why: str = ""


class StateView(TypedDict):
    """Whether what a node makes is in the store."""

    status: Status
    why: Annotated[str, "One sentence, such as which part of the key changed from what to what."]


class OutputView(TypedDict):
    """One output of a node."""

    port: str
    type: Annotated[str, "The type as text: kind<dtype[shape] layout>@place/rows."]
    stored: Annotated[str | None, "Why this output is a column of the store; null if it is none."]
    bytes_per_row: Annotated[int | None, "Bytes that a row takes by its type; null if rows differ."]


class MeasureView(TypedDict):
    """What a node cost in a run, and what went through it."""

    calls: int
    rows_in: int
    rows_out: int
    rejects: Annotated[int, "Rows that it refused."]
    bytes: Annotated[int, "Bytes of what it gave, in memory."]
    seconds: Annotated[float, "Wall time in it alone."]
    share: Annotated[float, "Its part of the seconds of its stage, from 0 to 1."]


class SiteView(TypedDict):
    """A stretch of one instruction, counted in code points."""

    instruction: Annotated[int, "Position in `instructions`."]
    start: int
    stop: int


class NodeView(TypedDict):
    """One use of an op."""

    address: Annotated[str, "The address by which messages call the node."]
    addresses: Annotated[list[str], "Every address; a node that tasks share has several."]
    op: str
    version: int
    params: Annotated[dict[str, Any], "Every parameter."]
    changed: Annotated[list[str], "The parameters that differ from the op's defaults."]
    outputs: list[OutputView]
    key: Annotated[str, "The plan key."]
    rows: Annotated[str, "The row set; empty for a constant."]
    stage: Stage
    segment: Annotated[int | None, "Position in `segments`."]
    scope: Annotated[str, "Name of a device node's parameters; empty if it has none."]
    state: Annotated[StateView | None, "Null where nothing is stored, or where nobody asked."]
    measure: Annotated[MeasureView | None, "Null where it did not run, or where nobody measured."]
    previews: Annotated[list[PreviewView], "Samples of what it gave; empty unless asked for."]
    sites: list[SiteView]


class EdgeView(TypedDict):
    """One value that one node makes and another uses."""

    maker: Annotated[int, "Position in `nodes`."]
    output: Annotated[str, "Output port of the maker."]
    user: Annotated[int, "Position in `nodes`."]
    input: Annotated[str, "Input port of the user."]


class LaneView(TypedDict):
    """A stage that has nodes."""

    stage: Stage
    about: str


class SegmentView(TypedDict):
    """Nodes that one Dask task runs over one partition."""

    rows: Annotated[str, "The row set, which is the name of the source."]
    in_process: Annotated[bool, "Whether it runs in a worker process rather than in a thread."]


class InstructionView(TypedDict):
    """One instruction, as its author wrote it."""

    label: Annotated[str, "Task and number of the template."]
    text: str


class ResultView(TypedDict):
    """A named result of the graph."""

    name: str
    node: Annotated[int, "Position in `nodes`."]
    port: str


class View(TypedDict):
    """A planned graph."""

    format: Annotated[int, "Version of this form; raised when a reader of the old one would fail."]
    title: str
    digest: Annotated[str, "Digest of all node ids: equal graphs have equal digests."]
    lanes: Annotated[list[LaneView], "From top to bottom."]
    nodes: Annotated[list[NodeView], "In topological order."]
    edges: list[EdgeView]
    segments: list[SegmentView]
    results: list[ResultView]
    instructions: list[InstructionView]


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
                sites=_sites(node, labels),
            )
            for node in graph
        ],
        edges=[
            EdgeView(
                maker=numbers[value.node], output=value.port, user=numbers[node.id], input=port
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
    return MeasureView(
        calls=measure.calls,
        rows_in=measure.rows_in,
        rows_out=measure.rows_out,
        rejects=measure.rejects,
        bytes=measure.bytes,
        seconds=measure.seconds,
        share=share,
    )


def _sites(node: Node, labels: Mapping[str, int]) -> list[SiteView]:
    return [
        SiteView(instruction=labels[site.label], start=site.span.start, stop=site.span.stop)
        for site in sorted(node.note.sites)
    ]
