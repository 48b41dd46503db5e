"""Building: everything that is computed once, by Dask, into the columns of a store.

A build registers the sources, fits what is not fitted yet, plans again, and computes the partitions that are
missing; everything it commits stays, whatever happens next. One Dask task runs one segment over one partition.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ...graph.errors import MissingExtraError, PlanError, SourceError, StoreError, suggest
from ...ops.host.bpe import Bpe
from ...ops.recipe.text import BPE
from ...storage.record import SourceRecord
from ...storage.source import register_source
from ...storage.store import Store
from ..planner.document import column_dtypes
from ..planner.planning import Plan, plan
from ..progress import Shown, open_progress
from ..task import Mixture, Source, Task, as_mixture
from .dataset import Dataset, artifact_loader, pinned_artifacts
from .estimate import estimate_bytes
from .fitting import fit_artifacts
from .job import JobFailure
from .machine import open_machine
from .measuring import BuildMeasures
from .missing import Missing, find_missing, part_of
from .replaying import tell_replay
from .report import BuildReport, Tally, TaskCount, tell_estimate
from .scheduler import Scheduler


def build(  # noqa: PLR0913 - each is a choice of the caller's
    mixture: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    *,
    client: Any = None,
    workers: int | None = None,
    dry_run: bool = False,
    on_error: Literal["ledger", "raise"] = "ledger",
    max_errors: float | None = None,
    progress: bool = True,
    timeout_s: float = 300.0,
    storage_options: Mapping[str, Any] | None = None,
) -> BuildReport:
    """Compute what the tasks of ``mixture`` need and ``store`` lacks.

    Args:
        mixture: The tasks.
        store: A store; made if there is none.
        client: A `distributed.Client` to compute with. If not given, the one that is active in this program,
            unless ``workers`` are asked for; False for none. Without a client, this machine computes.
        workers: Threads, and processes, of this machine; one for each core if not given.
        dry_run: Register the sources and say what would be computed, no more.
        on_error: What a bad row does: goes to the ledger, or ends the build, as does then a partition that
            cannot be built. Rows that are left out by the
            filters of all tasks that need them never end a build.
        max_errors: Most bad rows, as a count or (below 1) as a share of the rows to compute, before the build
            ends; what was committed stays.
        progress: Whether to show how far the build has come.
        timeout_s: Seconds a worker process may go without progress.
        storage_options: How URLs of the store and its sources are opened, as for `Store.create`; a `Store` has
            its own.

    Raises:
        SourceError: Rows cannot be read.
        PlanError: Tasks cannot be planned, or an argument is out of range.
        OpError: A bad row, with ``on_error="raise"``; or too many of them; or partitions that cannot be built,
            since every worker died or hung that tried. Unless it is to raise, all others are built first.
        StoreError: The store cannot be written.
        KeyboardInterrupt: The build was interrupted; building again goes on with it.
    """
    start = time.perf_counter()
    check_arguments(workers, timeout_s, on_error=on_error, max_errors=max_errors)
    mixture = as_mixture(mixture)
    # What is wrong without knowing any rows is said before they are read.
    plan(mixture, has_device=False)
    sources = mixture.sources()
    if not isinstance(store, Store):
        store = Store.create(store, storage_options=storage_options)
    client = choose_client(store, client)
    store.sweep()
    build_ = Build(mixture, store, raises=on_error == "raise", max_errors=max_errors)
    with open_progress(shown=progress) as shown:
        build_.register(sources, shown)
        planned = build_.plan()
        with build_.measured, open_scheduler(client, workers, timeout_s) as scheduler:
            if dry_run:
                report = build_.estimate(planned, scheduler)
                shown.say(str(report))
                return report
            fitted: tuple[str, ...] = ()
            while planned.fits:
                fitted += fit_artifacts(
                    planned, build_.records, store, scheduler, build_.measured, shown
                )
                planned = build_.plan()
            report = build_.run(planned, scheduler, shown)
        report = replace(report, fitted=fitted, seconds=time.perf_counter() - start)
        build_.record(planned, report)
        report = replace(report, tasks=build_.count_rows(planned))
        shown.say(str(report))
    return report


def choose_client(store: Store, client: Any) -> Any:
    """Return ``client``; False for a store that no other process sees, so that no active one is taken either.

    Raises:
        StoreError: A client was given for such a store (T0501).
    """
    if store.folder.is_shared:
        return client
    if client:
        raise unshared(store, "a client")
    return False


def unshared(store: Store, who: str) -> StoreError:
    """Return the error of a store in memory that ``who`` is to build."""
    message = f"{store} is seen by this process alone, and {who} computes in others"
    return StoreError.of("T0501", message, f"do without {who}, or build into another store")


class Build:
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

    def plan(self, again: Sequence[str] = ()) -> Plan:
        """Plan with what the store holds now, without the artifacts to fit ``again``.

        Raises:
            PlanError: The tasks cannot be planned, or fit no artifact of a name in ``again``.
        """
        pinned = pinned_artifacts(self.store)
        given = [BPE] if self.mixture.bpe_files is not None else []
        planned = plan(
            self.mixture,
            columns={name: column_dtypes(record.schema) for name, record in self.records.items()},
            pinned={
                name: pin for name, pin in pinned.items() if name not in again or name in given
            },
            load=artifact_loader(self.store),
            has_device=False,
        )
        if unknown := [name for name in again if name not in planned.fits]:
            message = f'again: these tasks fit no artifact named "{unknown[0]}"'
            known = {*planned.fits, *pinned} - {*again}
            raise PlanError.of("T0227", message, suggest(unknown[0], known))
        return planned

    def estimate(self, planned: Plan, scheduler: Scheduler) -> BuildReport:
        """Return what is to be built, as far as that is known before anything is computed."""
        missing = find_missing(planned, self.records, self.store)
        estimate = estimate_bytes(planned, missing, self.store, scheduler)
        return BuildReport(
            partitions=missing.partitions,
            cached=missing.cached,
            rows=missing.rows,
            bytes=estimate.dense,
            estimate=estimate,
            fitted=tuple(sorted(planned.fits)),
            is_dry=True,
        )

    def run(self, planned: Plan, scheduler: Scheduler, shown: Shown) -> BuildReport:
        """Compute every missing partition of every column.

        Raises:
            TaskloomError: Some partitions could not be built; all others are.
        """
        missing = find_missing(planned, self.records, self.store)
        partitions = [part.id for record in self.records.values() for part in record.partitions]
        tally = Tally(
            rows=missing.rows,
            max_errors=self.max_errors,
            tell=lambda problem: tell_replay(self.store, problem, partitions),
        )
        if missing.lacks:
            estimate = estimate_bytes(planned, missing, self.store, scheduler)
            shown.say(tell_estimate(missing.partitions, missing.cached, estimate))
            self._compute(missing, planned, scheduler, tally, shown)
        report = tally.report(missing.partitions, missing.cached)
        if tally.failures:
            shown.say(str(report))
            tally.check_failures()
        return report

    def _compute(
        self, missing: Missing, planned: Plan, scheduler: Scheduler, tally: Tally, shown: Shown
    ) -> None:
        rows = {lack.name: 0 for lack in missing.lacks}
        for lack in missing.lacks:
            rows[lack.name] += lack.rows
        jobs = missing.jobs(planned, self.store, raises=self.raises)
        with shown.tasks("build", rows, unit="rows") as bars:
            for report in scheduler.map(BUILD_PARTITION, jobs, bars.count):
                if isinstance(report, JobFailure):
                    bars.end(report.name, report.rows, 0)
                    tally.fail(report)
                    continue
                bars.end(report.name, report.rows, report.bytes)
                self.measured.add(report.place, report.measures)
                tally.add(report)

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
                    "graph": str(part_of(planned.graph, nodes)),
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


@contextmanager
def open_scheduler(client: Any, workers: int | None, timeout_s: float) -> Generator[Scheduler]:
    """Open what runs the jobs: a `distributed.Client`, given or active, or this machine.

    Raises:
        MissingExtraError: A client was given, and `distributed` is not installed.
    """
    if client is None and workers is None:
        client = _active_client()
    if client is None or client is False:
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


def _active_client() -> Any:
    """Return the `distributed.Client` that this program has made last and not closed, if there is one."""
    distributed: Any = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        client = distributed.Client.current()
    except ValueError:
        return None
    return None if client.asynchronous else client


def check_arguments(
    workers: int | None,
    timeout_s: float,
    *,
    on_error: str = "ledger",
    max_errors: float | None = None,
) -> None:
    """Raise unless every argument is in range.

    Raises:
        PlanError: One is not (T0227).
    """
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


BUILD_PARTITION = "taskloom.pipeline.builder.partition:build_partition"
