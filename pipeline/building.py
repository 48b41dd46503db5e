"""Building: everything that is computed once, by Dask, into the columns of a store.

A build registers the sources, fits what is not fitted yet, plans again, and computes the partitions that are
missing; everything it commits stays, whatever happens next. One Dask task runs one segment over one partition.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ..graph.errors import MissingExtraError, PlanError, SourceError, StoreError, suggest
from ..graph.graph import Graph
from ..graph.node import NodeId, Value
from ..graph.passes.segment import Segment
from ..graph.type import source_of
from ..ops.host.bpe import Bpe
from ..ops.recipe.text import BPE
from ..storage.record import SourceRecord
from ..storage.source import register_source
from ..storage.store import Store
from .dataset import Dataset, artifact_loader, pinned_artifacts
from .document import column_dtypes
from .fitting import fit_artifacts
from .job import Job, only_partition
from .machine import open_machine
from .measuring import BuildMeasures
from .planning import Filters, Plan, plan
from .progress import Shown, open_progress
from .replaying import tell_replay
from .report import BuildReport, Tally, TaskCount, tell_estimate
from .scheduler import Scheduler
from .task import Mixture, Source, Task, as_mixture


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
    storage_options: Mapping[str, Any] | None = None,
) -> BuildReport:
    """Compute what the tasks of ``mixture`` need and ``store`` lacks.

    Args:
        mixture: The tasks.
        store: A store; made if there is none.
        client: A `distributed.Client` to compute with; threads and processes of this machine otherwise.
        workers: Threads, and processes, of this machine; one for each core if not given.
        dry_run: Register the sources and say what would be computed, no more.
        on_error: What a bad row does: goes to the ledger, or ends the build. Rows that are left out by the
            filters of all tasks that need them never end a build.
        max_errors: Most bad rows, as a count or (below 1) as a share of the rows to compute, before the build
            ends; what was committed stays.
        refit: Names of artifacts to fit again. What follows from them is computed again.
        progress: Whether to show how far the build has come.
        timeout_s: Seconds a worker process may go without progress.
        storage_options: How URLs of the store and its sources are opened, as for `Store.create`; a `Store` has
            its own.

    Raises:
        SourceError: Rows cannot be read.
        PlanError: Tasks cannot be planned, or an argument is out of range.
        OpError: A bad row, with ``on_error="raise"``; or too many of them.
        StoreError: The store cannot be written.
        KeyboardInterrupt: The build was interrupted; building again goes on with it.
    """
    start = time.perf_counter()
    _check(workers=workers, on_error=on_error, max_errors=max_errors, timeout_s=timeout_s)
    mixture = as_mixture(mixture)
    # What is wrong without knowing any rows is said before they are read.
    plan(mixture)
    sources = mixture.sources()
    if not isinstance(store, Store):
        store = Store.create(store, storage_options=storage_options)
    if client is not None and not store.folder.is_shared:
        message = f"{store} is seen by this process alone, and a client computes in others"
        raise StoreError.of("T0501", message, "leave client out, or build into another store")
    store.sweep()
    build_ = _Build(mixture, store, raises=on_error == "raise", max_errors=max_errors)
    with open_progress(shown=progress) as shown:
        build_.register(sources, shown)
        planned = build_.plan(refit)
        if dry_run:
            report = build_.estimate(planned)
            shown.say(str(report))
            return report
        with build_.measured, _open_scheduler(client, workers, timeout_s) as scheduler:
            fitted: tuple[str, ...] = ()
            while planned.fits:
                fitted += fit_artifacts(
                    planned, build_.records, store, scheduler, build_.measured, shown
                )
                planned = build_.plan([name for name in refit if name not in fitted])
            report = build_.run(planned, scheduler, shown)
        report = replace(report, fitted=fitted, seconds=time.perf_counter() - start)
        build_.record(planned, report)
        report = replace(report, tasks=build_.count_rows(planned))
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
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.measured = BuildMeasures(store, f"{now}-{os.getpid()}")

    def register(self, sources: Mapping[str, Source], shown: Shown) -> None:
        """Register every source, and vocabulary files if there are any."""
        for name, source in sources.items():
            try:
                record = register_source(self.store, name, source.data, version=source.version)
            except SourceError as error:
                raise error.at(address=", ".join(self.mixture.tasks_of(name))) from error.__cause__
            partitions = f"{len(record.partitions):,} partition{'s'[: len(record.partitions) != 1]}"
            shown.say(f"source {name}: {record.num_rows:,} rows in {partitions}")
            self.records[name] = record
        if self.mixture.bpe_files is not None:
            self.store.pin(BPE, "bpe", Bpe.from_files(*self.mixture.bpe_files).to_bytes())

    def plan(self, refit: Sequence[str] = ()) -> Plan:
        """Plan with what the store holds now, without the artifacts to ``refit``.

        Raises:
            PlanError: The tasks cannot be planned, or have no artifact of a name in ``refit``.
        """
        pinned = pinned_artifacts(self.store)
        given = [BPE] if self.mixture.bpe_files is not None else []
        planned = plan(
            self.mixture,
            columns={name: column_dtypes(record.schema) for name, record in self.records.items()},
            pinned={
                name: pin for name, pin in pinned.items() if name not in refit or name in given
            },
            load=artifact_loader(self.store),
        )
        if unknown := [name for name in refit if name not in planned.fits]:
            message = f'refit: these tasks fit no artifact named "{unknown[0]}"'
            known = {*planned.fits, *pinned} - {*refit}
            raise PlanError.of("T0227", message, suggest(unknown[0], known))
        return planned

    def estimate(self, planned: Plan) -> BuildReport:
        """Return what is to be built, as far as that is known before anything is computed."""
        num_missing = num_cached = num_bytes = 0
        for value in planned.cut.stored:
            source = source_of(value.node.rows)
            record = self.records[source]
            partitions = [partition.id for partition in record.partitions]
            missing = self.store.missing(source, value.column_id, partitions)
            num_missing += len(missing)
            num_cached += len(partitions) - len(missing)
            row_bytes = planned.graph.type_of(value).row_bytes or 0
            num_bytes += row_bytes * sum(record.partition(p).rows for p in missing)
        return BuildReport(
            partitions=num_missing,
            cached=num_cached,
            bytes=num_bytes,
            fitted=tuple(sorted(planned.fits)),
            is_dry=True,
        )

    def run(self, planned: Plan, scheduler: Scheduler, shown: Shown) -> BuildReport:
        """Compute every missing partition of every column."""
        expected = self.estimate(planned)
        filters = planned.filters()
        jobs = [job for part in planned.segments for job in self._jobs(planned, part, filters)]
        rows = {(job.source.name, job.partition): job.rows for job in jobs}
        partitions = [part.id for record in self.records.values() for part in record.partitions]
        tally = Tally(
            rows=sum(rows.values()),
            max_errors=self.max_errors,
            tell=lambda problem: tell_replay(self.store, problem, partitions),
        )
        if jobs:
            shown.say(tell_estimate(expected.partitions, expected.cached, expected.bytes))
            with shown.task("build", total=sum(job.rows for job in jobs), unit="rows") as bar:
                for report in scheduler.map(_BUILD_PARTITION, jobs, bar):
                    self.measured.add(report.place, report.measures)
                    tally.add(report)
        return tally.report(expected.partitions, expected.cached)

    def record(self, planned: Plan, report: BuildReport) -> None:
        """Write what was built, for people and for training."""
        for task in self.mixture.tasks:
            nodes = [node.id for node in planned.documents(task.name)]
            self.store.write_task(
                task.name,
                {
                    "instruction": task.instruction,
                    "source": nodes[0].rows,
                    "columns": {p: v.column_id for v, p in planned.stored_of(task.name).items()},
                    "graph": str(_part(planned.graph, nodes)),
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

    def count_rows(self, planned: Plan) -> dict[str, TaskCount]:
        """Return how many rows each task has, and how many of them are bad."""
        dataset = Dataset.open(planned, self.store)
        return {task: TaskCount(*dataset.count(task)) for task in planned.tasks}

    def _jobs(self, planned: Plan, segment: Segment, filters: Filters) -> list[Job]:
        record = self.records[segment.rows]
        partitions = [partition.id for partition in record.partitions]
        lacking: dict[str, list[Value]] = {}
        for value in segment.stored:
            for partition in self.store.missing(segment.rows, value.column_id, partitions):
                lacking.setdefault(partition, []).append(value)
        graphs: dict[tuple[Value, ...], Graph] = {}
        jobs: list[Job] = []
        for number, partition in enumerate(partitions):
            if not (values := tuple(lacking.get(partition, ()))):
                continue
            keeps = _keeps(values, filters)
            if values not in graphs:
                nodes = [value.node for value in (*values, *(k for task in keeps for k in task))]
                graphs[values] = _part(planned.graph, nodes, values)
            job = Job(
                store=self.store,
                source=only_partition(record, number),
                graph=graphs[values],
                needs_process=segment.needs_process and self.store.folder.is_shared,
                keeps=keeps,
                raises=self.raises,
            )
            jobs.append(job)
        return jobs


@contextmanager
def _open_scheduler(client: Any, workers: int | None, timeout_s: float) -> Generator[Scheduler]:
    if client is None:
        with open_machine(workers, timeout_s) as machine:
            yield machine
        return
    try:
        from .cluster import open_cluster  # noqa: PLC0415 - distributed is an extra
    except ImportError as error:
        message = "building with a client needs the extra cluster"
        help_ = 'pip install "taskloom[cluster]"'
        raise MissingExtraError.of("T0901", message, help_) from error
    with open_cluster(client, timeout_s) as cluster:
        yield cluster


def _check(
    *, workers: int | None, on_error: str, max_errors: float | None, timeout_s: float
) -> None:
    wrong = {
        f"workers must be at least 1, got {workers}": workers is not None and workers < 1,
        f'on_error must be "ledger" or "raise", got "{on_error}"': on_error
        not in ("ledger", "raise"),
        f"max_errors must be at least 0, got {max_errors}": not (max_errors or 0) >= 0,
        f"timeout_s must be positive, got {timeout_s}": not timeout_s > 0,
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise PlanError.of("T0227", message)


def _keeps(values: Sequence[Value], filters: Filters) -> tuple[tuple[Value, ...], ...]:
    """Return the filters of each task that reads one of ``values``; none at all if a task takes every row."""
    keeps = dict.fromkeys(keep for value in values for keep in filters.get(value, [()]))
    return ((),) if () in keeps else tuple(keeps)


def _part(graph: Graph, nodes: Sequence[NodeId], values: Sequence[Value] = ()) -> Graph:
    """Return the part of ``graph`` that ``nodes`` need, which gives ``values``."""
    needed = graph.needs(Value(node) for node in nodes)
    outputs = {f"column-{i}": value for i, value in enumerate(values)}
    return Graph({node.id: node for node in needed}, outputs)


_BUILD_PARTITION = "taskloom.pipeline.partition:build_partition"
