"""Looking at a plan: what it computes, what a store holds of it, and why something is not there.

A column is *cached* when the store has all partitions of it. One that is not is *stale* when the task was
built before and the column was computed otherwise, and *missing* when it never was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..graph.errors import PlanError, StoreError
from ..graph.graph import Graph
from ..graph.node import Node, NodeId, Value
from ..graph.preview import PreviewView
from ..graph.view import State, Status, View, make_view
from ..ops.device.config import ModelConfig
from ..storage.store import Store
from .analysis import Analysis
from .dataset import artifact_loader, pinned_artifacts
from .document import column_dtypes
from .planning import Mode, Plan, plan
from .task import Mixture, Task


def open_plan(
    tasks: Mixture | Task | Sequence[Task],
    store: str | Path | Store | None,
    mode: Mode = "train",
    model: ModelConfig | None = None,
) -> Plan:
    """Plan ``tasks`` with whatever is known: sources and artifacts of ``store``, if there is one.

    Raises:
        StoreError: There is no store at the path.
        TaskloomError: The tasks cannot be planned.
    """
    if store is None:
        return plan(tasks, mode, model=model)
    store = store if isinstance(store, Store) else Store.open(store)
    columns = {name: column_dtypes(store.source(name).schema) for name in store.sources()}
    return plan(
        tasks,
        mode,
        model=model,
        columns=columns,
        pinned=pinned_artifacts(store),
        load=artifact_loader(store),
    )


def view_plan(
    planned: Plan,
    *,
    title: str,
    store: Store | None = None,
    project: str = "",
    analysis: Analysis | None = None,
    previews: Mapping[NodeId, Sequence[PreviewView]] | None = None,
) -> View:
    """Return what every view of ``planned`` shows, with what ``store`` holds of it.

    ``project`` is what the command line takes to make the same plan, ``analysis`` what it has cost,
    ``previews`` what its nodes made of some rows.

    For inference nothing is stored: rows come from the caller and are computed as they come.
    """
    is_stored = planned.mode == "train"
    return make_view(
        planned.graph,
        title=title,
        stages=planned.cut.stages,
        stored=planned.cut.stored if is_stored else {},
        segments=planned.segments if is_stored else (),
        states=column_states(planned, store) if is_stored and store is not None else None,
        catalogue=planned.catalogue,
        project=project,
        measures=None if analysis is None else analysis.measures,
        remarks=() if analysis is None else analysis.remarks,
        previews=previews,
    )


def column_states(planned: Plan, store: Store) -> dict[NodeId, State]:
    """Return what ``store`` holds of every stored node, and why; artifacts to be fitted are missing.

    The store is asked, and nothing else: rows that changed in a source's files since the last build are not
    noticed here, but by the next build.
    """
    states: dict[NodeId, State] = {
        value.node: State(Status.MISSING, "a build fits it") for value in planned.fits.values()
    }
    for task in planned.documents:
        before = _Built(store, task)
        for value, port in planned.stored_of(task).items():
            if value.node not in states or states[value.node].status is Status.MISSING:
                states[value.node] = _state(planned, store, value, before, port)
    return states


def _state(planned: Plan, store: Store, value: Value, before: _Built, port: str) -> State:
    source = value.node.rows
    if source not in store.sources():
        return State(Status.MISSING, f'source "{source}" was never built')
    partitions = [partition.id for partition in store.source(source).partitions]
    lacking = store.missing(source, value.column_id, partitions)
    if not lacking:
        return State(Status.CACHED, f"{len(partitions)} of {len(partitions)} partitions")
    was = before.find(planned.graph.nodes[value.node], port)
    if was is not None and was.key != value.node.key:
        return State(Status.STALE, before.tell_change(planned.graph, value.node, was.id))
    if was is None:
        return State(Status.MISSING, "never built")
    return State(Status.MISSING, f"{len(lacking)} of {len(partitions)} partitions to build")


class _Built:
    """How a task was built last."""

    def __init__(self, store: Store, task: str) -> None:
        try:
            self._graph = Graph.parse(store.task(task)["graph"])
        except (StoreError, PlanError):
            self._graph = Graph({}, {})  # it never was, or by code that spelled graphs otherwise
        *_, document = [None, *self._graph]
        self._inputs: Mapping[str, Value] = {} if document is None else document.inputs

    def find(self, now: Node, port: str) -> Node | None:
        """Return the node that stood where ``now`` stands: at the same slot, or filter, or split."""
        for its_port, value in self._inputs.items():
            node = self._graph.nodes[value.node]
            if port == its_port == "split" or _slots(node) & _slots(now):
                return node
        return None

    def tell_change(self, graph: Graph, now: NodeId, was: NodeId) -> str:
        """Say what differs first, from the source on, between node ``now`` of ``graph`` and ``was``."""
        node, before = graph.nodes[now], self._graph.nodes[was]
        if node.op == before.op:
            for port, value in node.inputs.items():
                theirs = before.inputs.get(port, value)
                if value.node.key != theirs.node.key:
                    return self.tell_change(graph, value.node, theirs.node)
        return _difference(node, before)


def _slots(node: Node) -> set[str]:
    """Return the places that ``node`` is the last step of: its addresses without that step."""
    return {address.rpartition("/")[0] for address in node.note.addresses}


def _difference(now: Node, before: Node) -> str:
    """Say how two nodes differ whose inputs are equal."""
    if before.op == "load_artifacts":
        again = "was fitted again" if now.op == before.op else "is to be fitted again"
        return f"{now.address} {again}"
    if now.op != before.op:
        return f"{now.address} was {before.op}, is {now.op}"
    if now.version != before.version:
        return f"{now.address}: version of {now.op} was {before.version}, is {now.version}"
    changed = [
        f"{name} was {before.params.get(name)}, is {value}"
        for name, value in now.params.items()
        if before.params.get(name) != value
    ]
    return f"{now.address}: {', '.join(changed)}"
