"""Looking at a plan: what it computes, what the store holds of it, and why something is not there."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph.errors import StoreError
from ..graph.graph import Graph
from ..graph.node import Node, NodeId, Value
from ..graph.view import State, Status, View, make_view
from ..storage.store import Store
from .dataset import artifact_loader, pinned_artifacts
from .document import column_dtypes
from .planning import Mode, Plan, plan
from .task import Mixture


def plan_for_view(mixture: Mixture, store: Store | None, mode: Mode = "train") -> Plan:
    """Plan ``mixture`` with whatever is known: sources and artifacts of ``store``, if there is one."""
    if store is None:
        return plan(mixture, mode)
    columns = {name: column_dtypes(store.source(name).schema) for name in store.sources()}
    return plan(
        mixture,
        mode,
        columns=columns,
        pinned=pinned_artifacts(store),
        load=artifact_loader(store),
    )


def view_plan(planned: Plan, *, title: str, store: Store | None = None) -> View:
    """Return what every view of ``planned`` shows, with what ``store`` holds of it."""
    return make_view(
        planned.graph,
        title=title,
        stages=planned.cut.stages,
        stored=planned.cut.stored,
        segments=planned.segments,
        states=None if store is None else column_states(planned, store),
        catalogue=planned.catalogue,
    )


def column_states(planned: Plan, store: Store) -> dict[NodeId, State]:
    """Return what ``store`` holds of every stored node: cached, stale or missing, and why."""
    states: dict[NodeId, State] = {}
    for task in planned.documents:
        before = _built_before(store, task)
        for value, port in planned.stored_of(task).items():
            states[value.node] = _state(planned, store, value, before.get(port))
    return states


def _state(planned: Plan, store: Store, value: Value, before: Node | None) -> State:
    source = value.node.rows
    if source not in store.sources():
        return State(Status.MISSING, f'source "{source}" was never built')
    partitions = [partition.id for partition in store.source(source).partitions]
    lacking = store.missing(source, value.column_id, partitions)
    if not lacking:
        return State(Status.CACHED, f"{len(partitions)} of {len(partitions)} partitions")
    if before is not None and before.key != value.node.key:
        return State(Status.STALE, f"built before, but {_difference(planned, value, before)}")
    return State(Status.MISSING, f"{len(lacking)} of {len(partitions)} partitions to build")


def _built_before(store: Store, task: str) -> Mapping[str, Node]:
    """Return the nodes that the task's document read when it was last built, by port."""
    try:
        graph = Graph.parse(store.task(task)["graph"])
    except StoreError:
        return {}
    *_, document = graph
    return {port: graph.nodes[value.node] for port, value in document.inputs.items()}


def _difference(planned: Plan, value: Value, before: Node) -> str:
    """Say what differs first between the nodes of ``value`` and those it was built with."""
    node = planned.graph.nodes[value.node]
    if node.op != before.op:
        return f"{node.address} was {before.op}, is {node.op}"
    if node.version != before.version:
        return f"{node.op} has version {node.version}, was {before.version}"
    changed = [
        f"{name} was {before.params.get(name)}, is {value}"
        for name, value in node.params.items()
        if before.params.get(name) != value
    ]
    return (
        f"{node.address}: {', '.join(changed)}" if changed else "what it is computed from changed"
    )
