"""A build as a Dask graph that nobody has run yet, for callers with a Dask workflow of their own.

Rows are captured and artifacts fitted before there is a graph: which partitions there are, and under which
keys their columns lie, follows from them.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from dask.base import tokenize
from dask.delayed import delayed
from dask.system import CPU_COUNT

from ...graph.errors import PlanError
from ...storage.store import Store
from ..host.pool import WorkerPool
from ..planner.planning import Plan, plan
from ..progress import Shown, open_progress
from ..task import Mixture, Task, as_mixture
from .building import BUILD_PARTITION, Build, unshared
from .fitting import fit_artifacts
from .job import Job, JobFailure
from .machine import open_machine
from .missing import find_missing
from .partition import JobReport
from .report import BuildReport, Tally
from .scheduler import run_job


def to_dask(
    mixture: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    *,
    fit: bool = False,
    on_error: Literal["ledger", "raise"] = "ledger",
    max_errors: float | None = None,
    timeout_s: float = 300.0,
) -> Any:
    """Return what `build` would run, as one `dask.delayed.Delayed` that gives its `BuildReport`.

    Each task of the graph computes one partition, commits it and hands its receipts on, never samples; it
    writes the bytes that `build` writes. Tasks that are lost may run again, anywhere that sees the store and
    the files of the sources under the same paths. What parses bytes from outside runs in processes beside
    the workers.

    Args:
        mixture: The tasks.
        store: A store; made if there is none. The sources are registered, or captured, in it now.
        fit: Fit now, by the threads and processes of this machine, what is still to be fitted.
        on_error: What a bad row does: goes to the ledger, or fails the graph.
        max_errors: Most bad rows, as a count or a share; more fail the graph at its end.
        timeout_s: Seconds a process beside a worker may go without progress.

    Raises:
        PlanError: Tasks cannot be planned; or something is still to be fitted (T0238), and ``fit`` is not set.
        SourceError: Rows cannot be read.
        StoreError: The store cannot be written.
    """
    mixture = as_mixture(mixture)
    # What is wrong without knowing any rows is said before they are read.
    plan(mixture, has_device=False)
    sources = mixture.sources()
    store = store if isinstance(store, Store) else Store.create(store)
    if not store.folder.is_shared:
        raise unshared(store, "a Dask graph")
    store.sweep()
    build_ = Build(mixture, store, raises=on_error == "raise", max_errors=max_errors)
    with open_progress(shown=False) as shown:
        build_.register(sources, shown)
        planned = _fitted(build_, fit=fit, timeout_s=timeout_s, shown=shown)
        missing = find_missing(planned, build_.records, store)
        build_.record(planned, BuildReport(partitions=0, cached=0))
    # Jobs are not searched for collections: they hold none, and they are large.
    run = delayed(_run, pure=False, traverse=False)
    parts = [
        run(job, timeout_s, dask_key_name=f"taskloom-{tokenize(job.place, str(job.graph))}")
        for job in missing.jobs(planned, store, raises=build_.raises)
    ]
    counts = (missing.rows, missing.partitions, missing.cached)
    return delayed(_tell, pure=False)(parts, counts, max_errors)


def _fitted(build_: Build, *, fit: bool, timeout_s: float, shown: Shown) -> Plan:
    """Return a plan that lacks no artifact."""
    planned = build_.plan()
    while planned.fits:
        if not fit:
            names = ", ".join(sorted(planned.fits))
            message = f"{names}: still to be fitted, and what is computed follows from it"
            raise PlanError.of("T0238", message, "set fit=True to fit now, or build once before")
        with build_.measured, open_machine(None, timeout_s) as machine:
            fit_artifacts(planned, build_.records, build_.store, machine, build_.measured, shown)
        planned = build_.plan()
    return planned


def _run(job: Job, timeout_s: float) -> Any:
    return run_job(BUILD_PARTITION, job, _pool(timeout_s))


@lru_cache(maxsize=1)
def _pool(timeout_s: float) -> WorkerPool:
    """Return the processes beside this one; they end with it."""
    pool = WorkerPool(CPU_COUNT, timeout_s=timeout_s)
    atexit.register(pool.close)
    return pool


def _tell(
    reports: Sequence[JobReport | JobFailure],
    counts: tuple[int, int, int],
    max_errors: float | None,
) -> BuildReport:
    rows, partitions, cached = counts
    tally = Tally(rows=rows, max_errors=max_errors)
    for report in reports:
        if isinstance(report, JobFailure):
            tally.fail(report)
        else:
            tally.add(report)
    tally.check_failures()
    return tally.report(partitions, cached)
