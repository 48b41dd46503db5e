"""Estimates: the disk that a build will take, before it takes it.

Dense columns take what their type says. Of others the store's receipts know what a row took so far; where there
are none, the first rows of a partition are computed and weighed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ...graph.graph import Graph
from ...graph.node import Value
from ...graph.op import Rows
from ...ops.catalogue import host_catalogue
from ...storage.files import count_bytes
from ...storage.store import Store
from ..planner.planning import Plan
from ..planner.weighing import measure_stored
from .job import Job, JobFailure
from .missing import Missing, part_of
from .partition import LENGTH_BYTES
from .scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that a build will write.

    Attributes:
        dense: Those of dense columns, to the byte.
        others: About those of other columns.
        is_whole: Whether nothing is left out: what follows a fit cannot be known before it.
    """

    dense: int = 0
    others: int = 0
    is_whole: bool = True

    def __str__(self) -> str:
        parts = [f"dense columns take {count_bytes(self.dense)}"] if self.dense else []
        parts += [f"others about {count_bytes(self.others)}"] if self.others else []
        parts += [] if self.is_whole else ["not counting what follows the fit"]
        return ", ".join(parts)


def estimate_bytes(planned: Plan, missing: Missing, store: Store, scheduler: Scheduler) -> Estimate:
    """Return what computing ``missing`` will take."""
    graph = planned.graph
    rows = missing.count()
    dense = sum((graph.type_of(value).row_bytes or 0) * number for value, number in rows.items())
    others = {value: number for value, number in rows.items() if not graph.type_of(value).row_bytes}
    known = {value: planned.cut.sizes[value][0] for value in others}
    sizes = {v: size.row_bytes + LENGTH_BYTES for v, size in known.items() if size.is_exact}
    sizes |= {v: size.row_bytes for v, size in measure_stored(store, others).items()}
    unknown = {value for value in others if value not in sizes and _follows_fit(graph, value)}
    wanted = [value for value in others if value not in sizes and value not in unknown]
    sizes |= _sample(planned, missing, store, scheduler, wanted)
    return Estimate(
        dense=dense,
        others=round(sum(number * sizes.get(value, 0.0) for value, number in others.items())),
        is_whole=others.keys() <= sizes.keys(),
    )


def _follows_fit(graph: Graph, value: Value) -> bool:
    return any(host_catalogue()[n.op].traits.rows is Rows.FIT for n in graph.needs([value]))


def _sample(
    planned: Plan, missing: Missing, store: Store, scheduler: Scheduler, wanted: list[Value]
) -> Mapping[Value, float]:
    """Return the bytes of a row of ``wanted``, as far as the first rows of a partition tell."""
    jobs: list[Job] = []
    for job in missing.first_jobs(planned, store):
        values = [value for value in job.values if value in wanted]
        if values:
            graph = part_of(planned.graph, [value.node for value in values], values)
            jobs.append(replace(job, graph=graph))
    found: dict[Value, float] = {}
    for sizes in scheduler.map(_WEIGH, jobs, lambda *_: None):
        if not isinstance(sizes, JobFailure):
            found |= sizes
    return found


_WEIGH: Final = "taskloom.pipeline.builder.partition:weigh_partition"
