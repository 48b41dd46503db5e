"""Fitting: vocabularies and closed sets, learned once from training rows and pinned in the store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ...graph.graph import Graph
from ...graph.measure import Measure
from ...graph.node import Node, NodeId, Value
from ...graph.op import Rows
from ...graph.type import source_of
from ...ops.catalogue import host_catalogue
from ...storage.record import SourceRecord
from ...storage.store import Store
from ..planner.planning import Plan
from ..progress import Shown
from .job import FitPart, Job, only_partitions
from .measuring import BuildMeasures
from .observing import blaming
from .scheduler import JOBS_A_WORKER, Scheduler


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
    ops: dict[NodeId, Any] = {n.id: host_catalogue()[n.op](**n.params) for n in ready.values()}
    parts = {name: _parts(list(ready.values()), name) for name in records}
    read = {name: record for name, record in records.items() if parts[name]}
    jobs = (
        job
        for name, record in read.items()
        for job in _jobs(graph, parts[name], record, store, scheduler.num_workers)
    )
    rows = {f"fit {name}": record.num_rows for name, record in read.items()}
    with shown.tasks("fit", rows, unit="rows") as bars:
        seen = scheduler.fold(_OBSERVE, _MERGE, jobs, bars.count)
    costs = {node: Measure() for node in ops}
    for place, measures in seen.measures.items():
        measured.add(place, {n: cost for n, cost in measures.items() if n not in costs})
        for node in measures.keys() & costs.keys():
            costs[node] += measures[node]
    for name, node in sorted(ready.items()):
        made_by = {"op": node.op, "version": node.version, "params": dict(node.params)}
        began = time.perf_counter()
        with blaming(node.address):
            content = ops[node.id].finish(seen.learned[node.id])
        finish = Measure(bytes=len(content), seconds=time.perf_counter() - began)
        artifact = store.pin(name, node.type.kind, content, made_by)
        measured.fitted(artifact.digest, costs[node.id] + finish)
        shown.say(f"fitted {name}")
    return tuple(sorted(ready))


def _is_ready(graph: Graph, value: Value) -> bool:
    *before, _ = graph.needs([value])
    return not any(host_catalogue()[node.op].traits.rows is Rows.FIT for node in before)


def _parts(fits: list[Node], source: str) -> tuple[FitPart, ...]:
    """Return what ``fits`` read of ``source``."""
    return tuple(
        FitPart(node=fit.id, address=fit.address, op=fit.op, params=fit.params, groups=groups)
        for fit in fits
        if (groups := _groups(fit, source))
    )


def _jobs(
    graph: Graph,
    parts: tuple[FitPart, ...],
    record: SourceRecord,
    store: Store,
    num_workers: int,
) -> Iterator[Job]:
    """Yield jobs that read all partitions of a source between them, several each where there are many."""
    wanted = [value for part in parts for group in part.groups for value in group.values()]
    nodes = {node.id: node for node in graph.needs(wanted)}
    small = Graph(nodes, {f"input-{i}": value for i, value in enumerate(wanted)})
    number = len(record.partitions)
    step = min(_MOST_PARTITIONS, max(1, number // (JOBS_A_WORKER * max(1, num_workers))))
    for first in range(0, number, step):
        yield Job(
            name=f"fit {record.name}",
            store=store,
            source=only_partitions(record, range(first, min(first + step, number))),
            graph=small,
            needs_process=store.folder.is_shared,
            fits=parts,
            raises=True,  # nothing of a fit is kept, so there is no use in going on
        )


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


_MOST_PARTITIONS: Final = 32
"""Partitions that one job learns from: what is lost with it is that much work."""

_OBSERVE: Final = "taskloom.pipeline.builder.observing:observe_partitions"
_MERGE: Final = "taskloom.pipeline.builder.observing:merge_observations"
