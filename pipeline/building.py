"""Building: everything that is computed once, by Dask, into the columns of a store.

A build registers the sources, fits what is not fitted yet, plans again, and computes the partitions that are
missing; everything it commits stays, whatever happens next. One Dask task runs one segment over one partition.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..graph.errors import OpError, Problem
from ..graph.graph import Graph
from ..graph.node import NodeId, Value
from ..graph.passes.segment import Segment
from ..ops.host.bpe import Bpe
from ..ops.recipe.text import BPE
from ..storage.record import SourceRecord
from ..storage.source import register_source
from ..storage.store import Store
from .dataset import artifact_loader, pinned_artifacts
from .document import column_dtypes
from .fitting import fit_artifacts
from .partition import Job, JobReport
from .planning import Plan, plan
from .progress import Shown, open_progress
from .scheduler import Scheduler, open_scheduler
from .task import Mixture, Task, as_mixture


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did, or would do.

    Attributes:
        partitions: Partitions of columns that were computed, or are missing if it was a dry run.
        cached: Those that were there already.
        rows: Rows that were computed, over all columns' partitions.
        rejects: Bad rows among them.
        bytes: Bytes that were written.
        fitted: Names of the artifacts that were fitted.
        problems: The first problem of every node that refused a row.
        seconds: How long it took.
        is_dry: Whether nothing was computed.
    """

    partitions: int
    cached: int
    rows: int = 0
    rejects: int = 0
    bytes: int = 0
    fitted: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    is_dry: bool = False

    def __str__(self) -> str:
        if self.is_dry:
            more = f", after fitting {', '.join(self.fitted)}" if self.fitted else ""
            return f"{self.partitions} column partitions to build, {self.cached} cached{more}"
        if not self.partitions and not self.fitted:
            return f"nothing to build: all {self.cached} column partitions are cached"
        text = (
            f"{self.partitions} column partitions built, {self.cached} cached; {self.rows:,} rows, "
            f"{self.rejects:,} rejected, {self.bytes / 1e6:,.1f} MB in {self.seconds:.1f} s"
        )
        return "\n".join([text, *map(str, self.problems)])


def build(  # noqa: PLR0913 - each is a choice of the caller's
    mixture: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    *,
    client: Any = None,
    workers: int | None = None,
    dry_run: bool = False,
    on_error: Literal["ledger", "raise"] = "ledger",
    max_errors: float | None = None,
    refit: Sequence[str] = (),
    progress: bool = True,
    timeout_s: float = 300.0,
) -> BuildReport:
    """Compute what the tasks of ``mixture`` need and ``store`` lacks.

    Args:
        mixture: The tasks.
        store: A store; made if there is none.
        client: A `distributed.Client` to compute with; threads and processes of this machine otherwise.
        workers: Threads, and processes, of this machine; one per core if not given.
        dry_run: Register the sources and say what would be computed, no more.
        on_error: What a bad row does: goes to the ledger, or ends the build.
        max_errors: Most bad rows, as a count or (below 1) as a share of the rows computed, before the build
            ends; what was committed stays.
        refit: Names of artifacts to fit again. What follows from them is computed again.
        progress: Whether to show how far the build has come.
        timeout_s: Seconds a worker process may go without progress.

    Raises:
        SourceError: Rows cannot be read.
        PlanError: Tasks cannot be planned.
        OpError: A bad row, with ``on_error="raise"``; or too many of them.
        StoreError: The store cannot be written.
    """
    start = time.perf_counter()
    mixture = as_mixture(mixture)
    if not isinstance(store, Store):
        store = Store.create(store)
    store.sweep()
    build_ = _Build(mixture, store, raises=on_error == "raise", max_errors=max_errors)
    with open_progress(shown=progress) as shown:
        build_.register(shown)
        planned = build_.plan(refit)
        if dry_run:
            missing, cached = build_.count(planned)
            return BuildReport(
                partitions=missing, cached=cached, fitted=tuple(sorted(planned.fits)), is_dry=True
            )
        with open_scheduler(client, workers or os.cpu_count() or 1, timeout_s) as scheduler:
            fitted: tuple[str, ...] = ()
            while planned.fits:
                fitted += fit_artifacts(planned, build_.records, store, scheduler, shown)
                planned = build_.plan([name for name in refit if name not in fitted])
            report = build_.run(planned, scheduler, shown)
        report = replace(report, fitted=fitted, seconds=time.perf_counter() - start)
        build_.finish(planned, report)
        shown.say(str(report))
    return report


class _Build:
    """One build on the way."""

    def __init__(
        self, mixture: Mixture, store: Store, *, raises: bool, max_errors: float | None
    ) -> None:
        self.mixture = mixture
        self.store = store
        self.raises = raises
        self.max_errors = max_errors
        self.records: dict[str, SourceRecord] = {}

    def register(self, shown: Shown) -> None:
        """Register every source, and vocabulary files if there are any."""
        for name, source in self.mixture.sources().items():
            record = register_source(self.store, name, source.data, version=source.version)
            shown.say(
                f"source {name}: {record.num_rows:,} rows in {len(record.partitions)} partitions"
            )
            self.records[name] = record
        if self.mixture.bpe_files is not None:
            self.store.pin(BPE, "bpe", Bpe.from_files(*self.mixture.bpe_files).to_bytes())

    def plan(self, refit: Sequence[str] = ()) -> Plan:
        """Plan with what the store holds now, without the artifacts to ``refit``."""
        pinned = pinned_artifacts(self.store)
        return plan(
            self.mixture,
            columns={name: column_dtypes(record.schema) for name, record in self.records.items()},
            pinned={name: pin for name, pin in pinned.items() if name not in refit},
            load=artifact_loader(self.store),
        )

    def count(self, planned: Plan) -> tuple[int, int]:
        """Return how many partitions of columns are missing, and how many are there."""
        missing = total = 0
        for value in planned.cut.stored:
            partitions = [p.id for p in self.records[value.node.rows].partitions]
            total += len(partitions)
            missing += len(self.store.missing(value.node.rows, value.column_id, partitions))
        return missing, total - missing

    def run(self, planned: Plan, scheduler: Scheduler, shown: Shown) -> BuildReport:
        """Compute every missing partition of every column."""
        missing, cached = self.count(planned)
        jobs = [
            (job, segment.needs_process)
            for segment in planned.segments
            for job in self._jobs(planned, segment)
        ]
        reports: list[JobReport] = []
        rows = sum(job.rows for job, _ in jobs)
        with shown.task("build", total=rows) as bar:
            for report in scheduler.map("taskloom.pipeline.partition:build_partition", jobs, bar):
                assert isinstance(report, JobReport), "build_partition returns nothing else"
                reports.append(report)
                self._check_errors(reports)
        problems = {p.address: p for report in reports for p in report.first}
        return BuildReport(
            partitions=missing,
            cached=cached,
            rows=sum(report.rows for report in reports),
            rejects=sum(report.rejects for report in reports),
            bytes=sum(receipt.bytes for report in reports for receipt in report.receipts),
            problems=tuple(problems.values()),
        )

    def finish(self, planned: Plan, report: BuildReport) -> None:
        """Write what was built, for people and for training."""
        for task in self.mixture.tasks:
            node = planned.documents[task.name]
            self.store.write_task(
                task.name,
                {
                    "instruction": task.instruction,
                    "source": node.rows,
                    "columns": {p: v.column_id for v, p in planned.stored_of(task.name).items()},
                    "graph": str(_part(planned.graph, [node])),
                },
            )
        if report.partitions or report.fitted:
            now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            self.store.write_build(
                f"{now}-{os.getpid()}",
                {
                    "tasks": [task.name for task in self.mixture.tasks],
                    "ended": now,
                    "seconds": round(report.seconds, 3),
                    "partitions": report.partitions,
                    "rows": report.rows,
                    "rejects": report.rejects,
                    "bytes": report.bytes,
                    "fitted": list(report.fitted),
                },
            )

    def _jobs(self, planned: Plan, segment: Segment) -> list[Job]:
        record = self.records[segment.rows]
        partitions = [partition.id for partition in record.partitions]
        lacking: dict[str, list[Value]] = {}
        for value in segment.stored:
            for partition in self.store.missing(segment.rows, value.column_id, partitions):
                lacking.setdefault(partition, []).append(value)
        graphs: dict[tuple[Value, ...], Graph] = {}
        for values in map(tuple, lacking.values()):
            if values not in graphs:
                graphs[values] = _part(planned.graph, [v.node for v in values], values)
        return [
            Job(
                store=self.store.path,
                source=record,
                partition=partition,
                graph=graphs[tuple(lacking[partition])],
                raises=self.raises,
            )
            for partition in partitions
            if partition in lacking
        ]

    def _check_errors(self, reports: Sequence[JobReport]) -> None:
        if self.max_errors is None:
            return
        rows, rejects = sum(r.rows for r in reports), sum(r.rejects for r in reports)
        limit = self.max_errors * rows if 0 < self.max_errors < 1 else self.max_errors
        if rejects > limit:
            message = (
                f"{rejects:,} of {rows:,} rows are bad, more than max_errors={self.max_errors}"
            )
            first = tuple(p for report in reports for p in report.first)[:5]
            help_ = "what was built stays; mend the rows, or raise max_errors, and build again"
            raise OpError(Problem("T0313", message, help_), *first)


def _part(graph: Graph, nodes: Sequence[NodeId], values: Sequence[Value] = ()) -> Graph:
    """Return the part of ``graph`` that ``nodes`` need, which gives ``values``."""
    needed = graph.needs(Value(node) for node in nodes)
    outputs = {f"column-{i}": value for i, value in enumerate(values)}
    return Graph({node.id: node for node in needed}, outputs)
