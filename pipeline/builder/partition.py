"""What one Dask task does: one segment over one partition.

It reads the partition itself, writes columns, a ledger of bad rows and receipts, and returns the receipts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...graph.errors import Problem, RowError
from ...graph.graph import Graph
from ...graph.measure import Measure
from ...graph.node import NodeId, Value
from ...ops.artifact import load_artifact
from ...ops.catalogue import host_catalogue
from ...storage.column import ColumnWriter, open_writer
from ...storage.ledger import LedgerEntry, make_capsule
from ...storage.receipt import Receipt
from ...storage.source import read_batches
from ...storage.store import Store
from ..host.execute import Execution, Failure, LoadArtifact
from ..host.meter import Meter
from ..versions import library_versions
from .job import Job

Report = Callable[[object], None]

LENGTH_BYTES: Final = 4.125
"""What the length and the validity of a row take, whatever the column."""

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
        name: What it worked on, for people.
        source: Name of the source.
        partition: Id of the partition.
        receipts: One for each column written.
        rows: Rows of the partition.
        bad: Offsets of the bad rows that some task keeps.
        first: The first problem of each node that refused one of them.
        measures: What each node cost.
    """

    name: str
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

    @property
    def bytes(self) -> int:
        """Size of what was written."""
        return sum(receipt.bytes for receipt in self.receipts)


def build_partition(job: Job, report: Report) -> JobReport:
    """Compute the outputs of ``job`` and commit them.

    Raises:
        RowError: A row is bad and the job was told to raise.
        TaskloomError: The partition cannot be read or written.
    """
    store = job.store
    execution = execution_of(job)
    meter = Meter(execution.readers)
    bad = _BadRows(job, execution)
    receipts: list[Receipt] = []
    with ExitStack() as stack:
        writers = {value: stack.enter_context(_writer(job, store, value)) for value in job.values}
        batches = read_batches(store, job.source, job.partition, execution.columns)
        for batch in meter.reading(batches):
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
        name=job.name,
        source=job.source.name,
        partition=job.partition,
        receipts=tuple(receipts),
        rows=bad.num_rows,
        bad=np.array(sorted(bad.offsets), np.uint32),
        first=tuple(bad.first.values()),
        measures=meter.measures(),
    )


def weigh_partition(job: Job, report: Report) -> dict[Value, float]:
    """Return how many bytes a row of each output takes, as the first record batch of the partition has it."""
    del report  # one record batch is all there is
    execution = execution_of(job)
    batches = read_batches(job.store, job.source, job.partition, execution.columns)
    for batch in batches:
        values, _ = execution.run(batch)
        made = {value: values[value].nbytes / batch.num_rows for value in job.values}
        return {value: size + LENGTH_BYTES for value, size in made.items()}
    return {}


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


def execution_of(job: Job) -> Execution:
    """Return the nodes of ``job``, ready to run."""
    return Execution(job.graph, list(job.graph.nodes), host_catalogue(), _artifacts(job.store))


def _writer(job: Job, store: Store, value: Value) -> ColumnWriter:
    type_ = job.graph.type_of(value)
    return open_writer(store, job.source.name, value.column_id, job.partition, type_)


def _commit(writer: ColumnWriter, bad: _BadRows, value: Value) -> Receipt:
    entries = bad.concerning(value)
    libraries = library_versions(host_catalogue(), bad.job.graph.needs([value]))
    return writer.commit(entries, graph=bad.graph_of(entries), libraries=libraries)


@lru_cache(maxsize=8)
def _artifacts(store: Store) -> LoadArtifact:
    """Return a loader of the store's artifacts that loads each once in this process."""

    @lru_cache(maxsize=64)
    def load(kind: str, digest: str) -> object:
        return load_artifact(kind, store.artifact_content(digest))

    return load
