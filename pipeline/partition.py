"""What one Dask task does: one segment over one partition.

A job carries a small graph, never samples; it reads its partition itself, writes columns, a ledger of bad rows
and receipts, and returns the receipts.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..graph.errors import Problem, RowError
from ..graph.graph import Graph
from ..graph.node import NodeId, Value
from ..ops.artifact import load_artifact
from ..ops.host.catalogue import HOST_CATALOGUE
from ..storage.column import open_writer
from ..storage.ledger import LedgerEntry, make_capsule
from ..storage.receipt import Receipt
from ..storage.record import SourceRecord
from ..storage.source import read_batches
from ..storage.store import Store
from .execute import Execution, Failure, LoadArtifact

Report = Callable[[object], None]


class Progress(NamedTuple):
    """How far a job has come since it last said so."""

    source: str
    rows: int
    rejects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPart:
    """What one fit reads of one source.

    Attributes:
        node: The node of the fit.
        op: Its op.
        params: The op's parameters.
        groups: Values that are observed together, by the argument they feed.
    """

    node: NodeId
    op: str
    params: Mapping[str, Any]
    groups: tuple[Mapping[str, Value], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One segment over one partition.

    Attributes:
        store: Folder of the store.
        source: The source.
        partition: Id of the partition.
        graph: The segment's nodes; its outputs are the values to compute.
        fits: The fits that learn from them.
        raises: Whether a bad row ends the build instead of going to the ledger.
    """

    store: Path
    source: SourceRecord
    partition: str
    graph: Graph
    fits: tuple[FitPart, ...] = ()
    raises: bool = False

    @property
    def rows(self) -> int:
        """Rows of the partition."""
        return self.source.partition(self.partition).rows


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What a job did.

    Attributes:
        source: Name of the source.
        partition: Id of the partition.
        receipts: One for each column written.
        rows: Rows of the partition.
        rejects: Bad rows.
        first: The first problem of each node that refused a row.
        seconds: CPU and other time it took, by the wall.
    """

    source: str
    partition: str
    receipts: tuple[Receipt, ...]
    rows: int
    rejects: int
    first: tuple[Problem, ...]
    seconds: float


def build_partition(job: Job, report: Report) -> JobReport:
    """Compute the outputs of ``job`` and commit them.

    Raises:
        RowError: A row is bad and the job was told to raise.
        TaskloomError: The partition cannot be read or written.
    """
    start = time.perf_counter()
    store = Store.open(job.store)
    graph = job.graph
    bad: list[LedgerEntry] = []
    rows = 0
    with ExitStack() as stack:
        writers = {
            value: stack.enter_context(
                open_writer(
                    store, job.source.name, value.column_id, job.partition, graph.type_of(value)
                )
            )
            for value in graph.outputs.values()
        }
        for batch, values, failures in _run(job, store):
            if failures and job.raises:
                raise RowError(*(_problem(job, rows, failure) for failure in failures))
            for value, writer in writers.items():
                writer.write(values[value])
            bad += [_entry(job, rows, batch, failure) for failure in failures]
            rows += batch.num_rows
            report(Progress(job.source.name, batch.num_rows, len({f.offset for f in failures})))
        receipts = tuple(
            writer.commit(_concerning(value, bad, graph)) for value, writer in writers.items()
        )
    first = {entry.problem.address: entry.problem for entry in reversed(bad)}
    return JobReport(
        source=job.source.name,
        partition=job.partition,
        receipts=receipts,
        rows=rows,
        rejects=len({entry.offset for entry in bad}),
        first=tuple(first.values()),
        seconds=time.perf_counter() - start,
    )


def observe_partition(job: Job, report: Report) -> dict[NodeId, Any]:
    """Return what the fits of ``job`` learn from its partition.

    A bad row teaches nothing; it goes to the ledger when the columns are built.
    """
    store = Store.open(job.store)
    learned: dict[NodeId, Any] = {}
    for batch, values, failures in _run(job, store):
        for part in job.fits:
            op: Any = HOST_CATALOGUE[part.op](**part.params)
            for group in part.groups:
                arrays = _usable([values[value] for value in group.values()], batch.num_rows)
                seen = op.observe(**dict(zip(group, arrays, strict=True)))
                is_first = part.node not in learned
                learned[part.node] = seen if is_first else op.merge(learned[part.node], seen)
        report(Progress(job.source.name, batch.num_rows, len({f.offset for f in failures})))
    return learned


def _run(
    job: Job, store: Store
) -> Iterator[tuple[pa.RecordBatch, dict[Value, Any], list[Failure]]]:
    """Run the job's graph on every record batch of its partition."""
    load = _artifacts(job.store)
    execution = Execution(job.graph, list(job.graph.nodes), HOST_CATALOGUE, load)
    for batch in read_batches(store, job.source, job.partition, execution.columns):
        yield batch, *execution.run(batch)


def _usable(arrays: list[pa.Array], num_rows: int) -> list[pa.Array]:
    """Return the rows that have a value in all of ``arrays``; single constants stay as they are."""
    rows = [array for array in arrays if len(array) == num_rows]
    if not any(array.null_count for array in rows):
        return arrays
    keep = pc.is_valid(rows[0])
    for array in rows[1:]:
        keep = pc.and_(keep, pc.is_valid(array))
    return [array.filter(keep) if len(array) == num_rows else array for array in arrays]


def _concerning(value: Value, bad: list[LedgerEntry], graph: Graph) -> list[LedgerEntry]:
    """Return the entries that leave ``value`` without a row."""
    made_of = {node.key for node in graph.needs([value])}
    return [entry for entry in bad if entry.node in made_of]


def _entry(job: Job, start: int, batch: pa.RecordBatch, failure: Failure) -> LedgerEntry:
    return LedgerEntry(
        offset=start + failure.offset,
        node=failure.node.key,
        problem=_problem(job, start, failure),
        capsule=make_capsule(batch, failure.offset),
    )


def _problem(job: Job, start: int, failure: Failure) -> Problem:
    return replace(failure.problem, row=f"{job.partition}:{start + failure.offset}")


@lru_cache(maxsize=8)
def _artifacts(path: Path) -> LoadArtifact:
    """Return a loader of the store's artifacts that loads each once in this process."""
    store = Store.open(path)

    @lru_cache(maxsize=64)
    def load(kind: str, digest: str) -> object:
        return load_artifact(kind, store.artifact_content(digest))

    return load
