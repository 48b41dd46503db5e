"""What fits learn: from the partitions of one job, and from all jobs together.

A job learns from several partitions and merges what it learned where it ran. What jobs have learned is merged
in whatever order it comes, on a cluster by the workers.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...graph.errors import OpError
from ...graph.measure import Measure
from ...graph.node import NodeId, Value
from ...ops.catalogue import host_catalogue
from ...storage.record import Partition
from ...storage.source import read_batches
from ...storage.store import Store
from ..host.execute import Execution
from ..host.meter import Meter
from .job import FitPart, Job
from .partition import Progress, execution_of

Report = Callable[[object], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What fits have learned from some partitions.

    Attributes:
        learned: What each has observed.
        measures: What each node cost, the fits included, by source and partition.
        ops: The ops of the fits, to merge what they have learned.
    """

    learned: Mapping[NodeId, Any]
    measures: Mapping[str, Mapping[NodeId, Measure]]
    ops: Mapping[NodeId, FitPart]


def observe_partitions(job: Job, report: Report) -> Observation:
    """Let the fits of ``job`` learn from its partitions.

    A bad row teaches nothing; it goes to the ledger when the columns are built.

    Raises:
        TaskloomError: A partition cannot be read, or there is too much to learn.
    """
    store = job.store
    execution = execution_of(job)
    seen = (_observe(job, store, execution, p, report) for p in job.source.partitions)
    return merge_observations(seen)


def merge_observations(observations: Iterable[Observation]) -> Observation:
    """Return what was learned in all of ``observations``.

    Raises:
        OpError: There is too much to learn.
    """
    return reduce(_merge_two, observations)


def _observe(
    job: Job, store: Store, execution: Execution, partition: Partition, report: Report
) -> Observation:
    learned: dict[NodeId, Any] = {}
    meter = Meter(execution.readers)
    batches = read_batches(store, job.source, partition.id, execution.columns)
    for batch in meter.reading(batches):
        values, _ = execution.run(batch, meter)
        for part in job.fits:
            began = time.perf_counter()
            rows_in = _learn(part, values, learned)
            meter.add(part.node, time.perf_counter() - began, rows_in, made=None)
        report(Progress(batch.num_rows, 0))
    measures = {job.place_of(partition): meter.measures()}
    return Observation(
        learned=learned, measures=measures, ops={part.node: part for part in job.fits}
    )


def _merge_two(first: Observation, second: Observation) -> Observation:
    ops = {**first.ops, **second.ops}
    learned = {**first.learned, **second.learned}
    for node in first.learned.keys() & second.learned.keys():
        with blaming(ops[node].address):
            op: Any = host_catalogue()[ops[node].op](**ops[node].params)
            learned[node] = op.merge(first.learned[node], second.learned[node])
    measures = {**first.measures, **second.measures}
    return Observation(learned=learned, measures=measures, ops=ops)


@contextmanager
def blaming(address: str) -> Generator[None]:
    """Name the node at ``address`` in what its op raises."""
    try:
        yield
    except OpError as error:
        raise error.at(address=address) from None


def _learn(part: FitPart, values: Mapping[Value, Any], learned: dict[NodeId, Any]) -> int:
    """Add what one fit sees in a record batch to ``learned``; return how many rows it was shown."""
    op: Any = host_catalogue()[part.op](**part.params)
    rows_in = 0
    with blaming(part.address):
        for group in part.groups:
            arrays = _usable({value: values[value] for value in group.values()})
            seen = op.observe(**dict(zip(group, arrays, strict=True)))
            is_first = part.node not in learned
            learned[part.node] = seen if is_first else op.merge(learned[part.node], seen)
            rows_in += max(map(len, arrays))
    return rows_in


def _usable(arrays: Mapping[Value, pa.Array]) -> list[pa.Array]:
    """Return the rows that have a value in all of ``arrays``; constants stay as they are."""
    rows = [array for value, array in arrays.items() if value.node.rows]
    if not any(array.null_count for array in rows):
        return list(arrays.values())
    keep = pc.is_valid(rows[0])
    for array in rows[1:]:
        keep = pc.and_(keep, pc.is_valid(array))
    return [array.filter(keep) if v.node.rows else array for v, array in arrays.items()]
