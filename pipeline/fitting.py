"""Fitting: vocabularies and closed sets, learned once from training rows and pinned in the store."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from ..graph.errors import OpError
from ..graph.graph import Graph
from ..graph.measure import Measure
from ..graph.node import Node, NodeId, Value
from ..graph.op import Rows
from ..graph.type import source_of
from ..ops.catalogue import host_catalogue
from ..storage.record import SourceRecord
from ..storage.store import Store
from .job import FitPart, Job, only_partition
from .measuring import BuildMeasures
from .planning import Plan
from .progress import Shown
from .scheduler import Scheduler


def fit_artifacts(
    planned: Plan,
    records: Mapping[str, SourceRecord],
    store: Store,
    scheduler: Scheduler,
    measured: BuildMeasures,
    shown: Shown,
) -> tuple[str, ...]:
    """Fit the artifacts that ``planned`` lacks and pin them; return their names.

    Those that read what another fit gives are left for the next plan.
    """
    graph = planned.graph
    ready = {name: graph.nodes[v.node] for name, v in planned.fits.items() if _is_ready(graph, v)}
    jobs = [
        job
        for source, record in records.items()
        for job in _jobs(graph, list(ready.values()), source, record, store)
    ]
    learned: dict[NodeId, Any] = {}
    costs: dict[NodeId, Measure] = dict.fromkeys((n.id for n in ready.values()), Measure())
    ops: dict[NodeId, Any] = {n.id: host_catalogue()[n.op](**n.params) for n in ready.values()}
    with shown.task("fit", total=sum(job.rows for job in jobs), unit="rows") as bar:
        for seen in scheduler.map(_OBSERVE_PARTITION, jobs, bar):
            before = {n: cost for n, cost in seen.measures.items() if n not in costs}
            measured.add(seen.place, before)
            for node, state in seen.learned.items():
                costs[node] += seen.measures[node]
                with _blaming(graph.nodes[node]):
                    is_first = node not in learned
                    learned[node] = state if is_first else ops[node].merge(learned[node], state)
    for name, node in sorted(ready.items()):
        made_by = {"op": node.op, "version": node.version, "params": dict(node.params)}
        began = time.perf_counter()
        with _blaming(node):
            content = ops[node.id].finish(learned[node.id])
        finish = Measure(bytes=len(content), seconds=time.perf_counter() - began)
        artifact = store.pin(name, node.type.kind, content, made_by)
        measured.fitted(artifact.digest, costs[node.id] + finish)
        shown.say(f"fitted {name}")
    return tuple(sorted(ready))


@contextmanager
def _blaming(fit: Node) -> Generator[None]:
    try:
        yield
    except OpError as error:
        raise error.at(address=fit.address) from None


def _is_ready(graph: Graph, value: Value) -> bool:
    *before, _ = graph.needs([value])
    return not any(host_catalogue()[node.op].traits.rows is Rows.FIT for node in before)


def _jobs(
    graph: Graph, fits: list[Node], source: str, record: SourceRecord, store: Store
) -> list[Job]:
    """Return a job for every partition of a source that some fit reads."""
    parts = [
        FitPart(node=fit.id, address=fit.address, op=fit.op, params=fit.params, groups=groups)
        for fit in fits
        if (groups := _groups(fit, source))
    ]
    wanted = [value for part in parts for group in part.groups for value in group.values()]
    if not wanted:
        return []
    nodes = {node.id: node for node in graph.needs(wanted)}
    small = Graph(nodes, {f"input-{i}": value for i, value in enumerate(wanted)})
    return [
        Job(
            store=store,
            source=only_partition(record, number),
            graph=small,
            needs_process=store.folder.is_shared,
            fits=tuple(parts),
        )
        for number in range(len(record.partitions))
    ]


def _groups(fit: Node, source: str) -> tuple[Mapping[str, Value], ...]:
    """Return the inputs of ``fit`` that belong together and concern ``source``, by argument.

    Ports of a fit over many inputs are numbered: ``texts.0`` goes with ``splits.0``.
    """
    groups: dict[str, dict[str, Value]] = {}
    for port, value in fit.inputs.items():
        name, _, number = port.partition(".")
        groups.setdefault(number, {})[name] = value
    rows = {
        number: {source_of(value.node.rows) for value in group.values()}
        for number, group in groups.items()
    }
    return tuple(group for number, group in groups.items() if source in rows[number])


_OBSERVE_PARTITION = "taskloom.pipeline.partition:observe_partition"
