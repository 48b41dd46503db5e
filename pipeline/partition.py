"""What one Dask task does: one segment over one partition.

It reads the partition itself, writes columns, a ledger of bad rows and receipts, and returns the receipts.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..graph.errors import OpError, Problem, RowError
from ..graph.graph import Graph
from ..graph.measure import Measure
from ..graph.node import NodeId, Value
from ..ops.artifact import load_artifact
from ..ops.catalogue import host_catalogue
from ..storage.column import ColumnWriter, open_writer
from ..storage.ledger import LedgerEntry, make_capsule
from ..storage.receipt import Receipt
from ..storage.source import read_batches
from ..storage.store import Store
from .execute import Execution, Failure, LoadArtifact
from .job import FitPart, Job
from .meter import Meter
from .versions import library_versions

Report = Callable[[object], None]

_MAX_PROBLEMS = 20
"""Bad rows that one error names."""


class Progress(NamedTuple):
    """How far a job has come since it last said so."""

    rows: int
    rejects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What a job did.

    Attributes:
        source: Name of the source.
        partition: Id of the partition.
        receipts: One for each column written.
        rows: Rows of the partition.
        bad: Offsets of the bad rows that some task keeps.
        first: The first problem of each node that refused one of them.
        measures: What each node cost.
    """

    source: str
    partition: str
    receipts: tuple[Receipt, ...]
    rows: int
    bad: npt.NDArray[np.uint32]
    first: tuple[Problem, ...]
    measures: Mapping[NodeId, Measure]

    @property
    def place(self) -> str:
        """Source and partition."""
        return f"{self.source}/{self.partition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the fits of a job have learned.

    Attributes:
        place: Source and partition.
        learned: What each has observed.
        measures: What each node cost, the fits included.
    """

    place: str
    learned: Mapping[NodeId, Any]
    measures: Mapping[NodeId, Measure]


def build_partition(job: Job, report: Report) -> JobReport:
    """Compute the outputs of ``job`` and commit them.

    Raises:
        RowError: A row is bad and the job was told to raise.
        TaskloomError: The partition cannot be read or written.
    """
    store = job.store
    execution = _execution(job)
    meter = Meter(execution.readers)
    bad = _BadRows(job, execution)
    receipts: list[Receipt] = []
    with ExitStack() as stack:
        writers = {value: stack.enter_context(_writer(job, store, value)) for value in job.values}
        for batch in _batches(job, store, execution, meter):
            values, failures = execution.run(batch, meter)
            rejects = bad.add(batch, values, failures)
            for value, writer in writers.items():
                with meter.writing(value.node):
                    writer.write(values[value])
            report(Progress(batch.num_rows, rejects))
        for value, writer in writers.items():
            with meter.writing(value.node):
                receipts.append(_commit(writer, bad, value))
            meter.of(value.node).stored_bytes += receipts[-1].bytes
    return JobReport(
        source=job.source.name,
        partition=job.partition,
        receipts=tuple(receipts),
        rows=bad.num_rows,
        bad=np.array(sorted(bad.offsets), np.uint32),
        first=tuple(bad.first.values()),
        measures=meter.measures(),
    )


def observe_partition(job: Job, report: Report) -> Observation:
    """Let the fits of ``job`` learn from its partition.

    A bad row teaches nothing; it goes to the ledger when the columns are built.

    Raises:
        TaskloomError: The partition cannot be read, or there is too much to learn.
    """
    store = job.store
    learned: dict[NodeId, Any] = {}
    execution = _execution(job)
    meter = Meter(execution.readers)
    for batch in _batches(job, store, execution, meter):
        values, _ = execution.run(batch, meter)
        for part in job.fits:
            began = time.perf_counter()
            rows_in = _learn(part, values, learned)
            meter.add(part.node, time.perf_counter() - began, rows_in, made=None)
        report(Progress(batch.num_rows, 0))
    return Observation(place=job.place, learned=learned, measures=meter.measures())


def _learn(part: FitPart, values: Mapping[Value, Any], learned: dict[NodeId, Any]) -> int:
    """Add what one fit sees in a record batch to ``learned``; return how many rows it was shown."""
    op: Any = host_catalogue()[part.op](**part.params)
    rows_in = 0
    try:
        for group in part.groups:
            arrays = _usable({value: values[value] for value in group.values()})
            seen = op.observe(**dict(zip(group, arrays, strict=True)))
            is_first = part.node not in learned
            learned[part.node] = seen if is_first else op.merge(learned[part.node], seen)
            rows_in += max(map(len, arrays))
    except OpError as error:
        raise error.at(address=part.address) from None
    return rows_in


@dataclass(slots=True)
class _BadRows:
    """The rows of a job that could not be computed."""

    job: Job
    execution: Execution
    num_rows: int = 0
    entries: list[LedgerEntry] = field(default_factory=list[LedgerEntry])
    offsets: set[int] = field(default_factory=set[int])
    first: dict[str, Problem] = field(default_factory=dict[str, Problem])

    def add(
        self, batch: pa.RecordBatch, values: Mapping[Value, Any], failures: list[Failure]
    ) -> int:
        """Take note of the failures of one record batch; return how many bad rows some task keeps.

        Raises:
            RowError: There are some, and the job was told to raise.
        """
        start = self.num_rows
        self.num_rows += batch.num_rows
        if not failures:
            return 0
        is_kept = self._kept(values, batch.num_rows)
        kept: dict[int, list[Problem]] = {}
        for failure in failures:
            offset = start + failure.offset
            problem = replace(failure.problem, row=f"{self.job.partition}:{offset}")
            read = batch.select(self.execution.columns_of(failure.node))
            capsule = make_capsule(read, failure.offset)
            self.entries.append(
                LedgerEntry(offset=offset, node=failure.node.key, problem=problem, capsule=capsule)
            )
            if is_kept[failure.offset]:
                kept.setdefault(offset, []).append(problem)
                self.first.setdefault(problem.address, problem)
        if kept and self.job.raises:
            raise RowError(*[p for problems in kept.values() for p in problems][:_MAX_PROBLEMS])
        self.offsets |= kept.keys()
        return len(kept)

    def concerning(self, value: Value) -> list[LedgerEntry]:
        """Return the entries that leave ``value`` without a row."""
        made_of = {node.key for node in self.job.graph.needs([value])}
        return [entry for entry in self.entries if entry.node in made_of]

    def graph_of(self, entries: list[LedgerEntry]) -> str:
        """Return the text of what the nodes of ``entries`` are computed from, the nodes themselves included."""
        keys = {entry.node for entry in entries}
        # Sorted, whatever failed first and whatever else the job computes: equal builds write equal bytes.
        failed = sorted(
            Value(node.id) for node in self.job.graph if node.key in keys and node.id.rows
        )
        nodes = {node.id: node for node in self.job.graph.needs(failed)}
        return str(Graph(nodes, {})) if nodes else ""

    def _kept(self, values: Mapping[Value, Any], num_rows: int) -> npt.NDArray[np.bool_]:
        """Return which rows pass the filters of at least one task."""
        kept = np.zeros(num_rows, np.bool_)
        for filters in self.job.keeps:
            passes = np.ones(num_rows, np.bool_)
            for keep in filters:
                # A row whose filter could not be computed is not known to be left out.
                passes &= np.asarray(values[keep].fill_null(True))  # noqa: FBT003 - Arrow's way
            kept |= passes
        return kept


def _execution(job: Job) -> Execution:
    return Execution(job.graph, list(job.graph.nodes), host_catalogue(), _artifacts(job.store))


def _batches(
    job: Job, store: Store, execution: Execution, meter: Meter
) -> Iterator[pa.RecordBatch]:
    return meter.reading(read_batches(store, job.source, job.partition, execution.columns))


def _writer(job: Job, store: Store, value: Value) -> ColumnWriter:
    type_ = job.graph.type_of(value)
    return open_writer(store, job.source.name, value.column_id, job.partition, type_)


def _commit(writer: ColumnWriter, bad: _BadRows, value: Value) -> Receipt:
    entries = bad.concerning(value)
    libraries = library_versions(host_catalogue(), bad.job.graph.needs([value]))
    return writer.commit(entries, graph=bad.graph_of(entries), libraries=libraries)


def _usable(arrays: Mapping[Value, pa.Array]) -> list[pa.Array]:
    """Return the rows that have a value in all of ``arrays``; constants stay as they are."""
    rows = [array for value, array in arrays.items() if value.node.rows]
    if not any(array.null_count for array in rows):
        return list(arrays.values())
    keep = pc.is_valid(rows[0])
    for array in rows[1:]:
        keep = pc.and_(keep, pc.is_valid(array))
    return [array.filter(keep) if v.node.rows else array for v, array in arrays.items()]


@lru_cache(maxsize=8)
def _artifacts(store: Store) -> LoadArtifact:
    """Return a loader of the store's artifacts that loads each once in this process."""

    @lru_cache(maxsize=64)
    def load(kind: str, digest: str) -> object:
        return load_artifact(kind, store.artifact_content(digest))

    return load
