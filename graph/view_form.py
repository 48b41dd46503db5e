"""The form of a view: a planned graph as plain data, which is JSON.

Nodes are numbered by their place in the list; edges, and whatever else points at a node, use that number.
Words that users wrote (prompts, columns, titles) stand here as they were written: each view escapes them for
the place where it shows them.

Of a diff, every node says what became of it. *Changed* is a node of which op, version, parameters or inputs
are not what they were; one that *follows* is what it was and reads what changed, so its values are others; one
that *moved* has another address and nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, TypedDict

from .passes.cut import Stage
from .preview import PreviewView

VIEW_FORMAT: Final = 2


class Status(StrEnum):
    """Whether what a node makes is in the store."""

    CACHED = "cached"
    STALE = "stale"
    MISSING = "missing"
    UNKNOWN = "unknown"


class ChangeKind(StrEnum):
    """What became of a node from one graph to another."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    FOLLOWS = "follows"
    MOVED = "moved"
    SAME = "same"


class StateView(TypedDict):
    """Whether what a node makes is in the store."""

    status: Status
    why: Annotated[str, "One sentence, such as which part of the key changed from what to what."]


class FactView(TypedDict):
    """One thing that is no longer what it was."""

    what: Annotated[
        str, "Such as ``size``, ``version``, ``type``, ``address`` or ``reads images``."
    ]
    was: str
    now: str


class ChangeView(TypedDict):
    """What became of a node from one graph to another."""

    kind: ChangeKind
    facts: list[FactView]
    rebuilds: Annotated[bool, "Whether a build has a column of it to compute."]
    rows: Annotated[int | None, "Rows to compute; null where nothing is, or nobody knows."]
    bytes: Annotated[
        int | None, "Estimated bytes to store; null where nothing is, or nobody knows."
    ]


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
    seconds: Annotated[float, "Wall time in it alone; of a device node, its gradient included."]
    backward_seconds: Annotated[float, "The part of `seconds` that its gradient took."]
    stored_bytes: Annotated[int, "Bytes that its columns took in the store."]
    writing_seconds: Annotated[float, "Wall time of writing them, no part of `seconds`."]
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
    change: Annotated[ChangeView | None, "What became of it; null unless this is a diff."]
    sites: list[SiteView]


class EdgeView(TypedDict):
    """One value that one node makes and another uses."""

    maker: Annotated[int, "Position in `nodes`."]
    output: Annotated[str, "Output port of the maker."]
    user: Annotated[int, "Position in `nodes`."]
    input: Annotated[str, "Input port of the user."]
    change: Annotated[ChangeKind | None, "Added, removed or same; null unless this is a diff."]


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


class DiffView(TypedDict):
    """The graphs that a diff compares. Its nodes are those of the new one, and what is gone."""

    old_title: str
    old_digest: str
    new_title: str
    new_digest: str


class View(TypedDict):
    """A planned graph, or two of them compared."""

    format: Annotated[int, "Version of this form; raised when a reader of the old one would fail."]
    title: str
    project: Annotated[str, "What `taskloom` takes to make this graph; empty if nobody knows."]
    digest: Annotated[str, "Digest of all node ids: equal graphs have equal digests."]
    lanes: Annotated[list[LaneView], "From top to bottom."]
    nodes: Annotated[list[NodeView], "In topological order."]
    edges: list[EdgeView]
    segments: list[SegmentView]
    results: list[ResultView]
    instructions: list[InstructionView]
    remarks: Annotated[list[str], "What to know of the whole, such as where measures come from."]
    diff: Annotated[DiffView | None, "Null unless two graphs are compared."]
