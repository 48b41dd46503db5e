"""Fitting by itself: what a store lacks, what is to be fitted again, and the columns that follow from it.

An artifact stays as it is pinned, whatever rows or tasks come: ids mean what they meant. Only `fit` replaces
one. It says first what hangs on it; the columns themselves are computed by the next build.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...graph.errors import PlanError
from ...graph.graph import Graph
from ...graph.node import Value
from ...graph.type import source_of
from ...storage.column import read_receipt
from ...storage.files import count_bytes
from ...storage.store import Store
from ..planner.document import column_dtypes
from ..planner.planning import Plan, plan
from ..progress import open_progress
from ..task import Mixture, Task, as_mixture
from .building import Build, check_arguments, choose_client, open_scheduler
from .dataset import pinned_artifacts
from .fitting import fit_artifacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """A column that is computed anew if an artifact comes out different.

    Attributes:
        address: The node that makes it.
        tasks: The tasks that read it.
        source: Its source.
        column: Its id now.
        partitions: How many partitions of it are built.
        rows: Rows in them.
        bytes: What they take.
    """

    address: str
    tasks: tuple[str, ...]
    source: str
    column: str
    partitions: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What a fit did, or would do.

    Attributes:
        names: Artifacts that were fitted, or would be.
        followers: The built columns that hang on them.
        others: Tasks that the store was built with, that hang on them and are not among those given.
        changed: Those of ``names`` that the store did not hold as they are now; none in a dry run.
        seconds: How long it took.
        is_dry: Whether nothing was fitted.
    """

    names: tuple[str, ...]
    followers: tuple[Follower, ...] = ()
    others: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    seconds: float = 0.0
    is_dry: bool = False

    @property
    def rows(self) -> int:
        """Rows of all followers."""
        return sum(one.rows for one in self.followers)

    @property
    def bytes(self) -> int:
        """Bytes of all followers."""
        return sum(one.bytes for one in self.followers)

    def __str__(self) -> str:
        if not self.names:
            return "nothing to fit: every artifact is pinned; name those to fit again"
        return "\n".join([self.forecast] if self.is_dry else [self.forecast, self.outcome])

    @property
    def forecast(self) -> str:
        """What is to be fitted and, if it comes out different, computed again."""
        names = ", ".join(self.names)
        if not self.followers:
            return f"{names} to fit; no column that is built hangs on it"
        total = f"{len(self.followers):,} column{'s'[: len(self.followers) != 1]} to compute again"
        lines = [
            f"{names} to fit; if it comes out different, {total}: "
            f"{self.rows:,} rows, {count_bytes(self.bytes)}"
        ]
        width = max(len(one.address) for one in self.followers)
        lines += [
            f"  {one.address:<{width}}  {one.rows:,} rows, {count_bytes(one.bytes)}"
            for one in self.followers
        ]
        if self.others:
            lines.append(f"built with it too, and not among these tasks: {', '.join(self.others)}")
        return "\n".join(lines)

    @property
    def outcome(self) -> str:
        """What came of it."""
        if not self.changed:
            return f"{', '.join(self.names)}: fitted, and as before; nothing follows"
        told = f"{', '.join(self.changed)}: fitted"
        return f"{told}; a build computes what follows" if self.followers else told


def fit(
    mixture: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    *,
    again: Sequence[str] = (),
    client: Any = None,
    workers: int | None = None,
    dry_run: bool = False,
    progress: bool = True,
    timeout_s: float = 300.0,
) -> FitReport:
    """Fit the artifacts that ``store`` lacks, and those named ``again``, on the rows as they are now.

    Args:
        mixture: The tasks.
        store: A store; made if there is none.
        again: Names of artifacts to fit anew; those that the store holds are replaced.
        client: A `distributed.Client` to compute with; threads and processes of this machine otherwise.
        workers: Threads, and processes, of this machine; one for each core if not given.
        dry_run: Say what would be fitted and what would follow, no more.
        progress: Whether to say so, and to show how far the fit has come.
        timeout_s: Seconds a worker process may go without progress.

    Raises:
        SourceError: Rows cannot be read.
        PlanError: Tasks cannot be planned, or fit no artifact of a name in ``again``.
        OpError: An artifact cannot be fitted; what was pinned stays.
        StoreError: The store cannot be written.
    """
    start = time.perf_counter()
    check_arguments(workers, timeout_s)
    mixture = as_mixture(mixture)
    plan(mixture, has_device=False)
    store = store if isinstance(store, Store) else Store.create(store)
    client = choose_client(store, client)
    store.sweep()
    prepared = Build(mixture, store, raises=False, max_errors=None)
    with open_progress(shown=progress) as shown:
        prepared.register(mixture.sources(), shown)
        planned = prepared.plan(again)
        report = FitReport(
            names=tuple(sorted(planned.fits)),
            followers=tuple(_find_followers(prepared, planned)),
            others=tuple(_find_others(mixture, store, planned)),
            is_dry=dry_run,
        )
        shown.say(report.forecast if report.names else str(report))
        if dry_run or not report.names:
            return report
        before = pinned_artifacts(store)
        fitted: tuple[str, ...] = ()
        with prepared.measured, open_scheduler(client, workers, timeout_s) as scheduler:
            while planned.fits:
                fitted += fit_artifacts(
                    planned, prepared.records, store, scheduler, prepared.measured, shown
                )
                planned = prepared.plan([name for name in again if name not in fitted])
        now = pinned_artifacts(store)
        changed = tuple(name for name in sorted(fitted) if now[name] != before.get(name))
        report = replace(
            report,
            names=tuple(sorted(fitted)),
            changed=changed,
            seconds=time.perf_counter() - start,
        )
        shown.say(report.outcome)
    return report


def _find_followers(prepared: Build, planned: Plan) -> Iterator[Follower]:
    """Yield the columns that are computed with what the store holds of the artifacts to fit."""
    store = prepared.store
    # Nothing is loaded: that the pinned vocabulary is too large may be why it is fitted again.
    now = plan(
        prepared.mixture,
        columns={name: column_dtypes(record.schema) for name, record in prepared.records.items()},
        pinned=pinned_artifacts(store),
        has_device=False,
    )
    fits = {value.node for value in planned.fits.values()}
    readers: dict[Value, list[str]] = {}
    for task in planned.tasks:
        held = {port: value for value, port in now.stored_of(task).items()}
        for value, port in planned.stored_of(task).items():
            if fits & {node.id for node in planned.graph.needs([value])}:
                readers.setdefault(held[port], []).append(task)
    for value, tasks in readers.items():
        source = source_of(value.node.rows)
        ids = store.committed(source, value.column_id)
        partitions = [part.id for part in prepared.records[source].partitions if part.id in ids]
        if not partitions:
            continue
        receipts = [read_receipt(store, source, value.column_id, one) for one in partitions]
        yield Follower(
            address=now.graph.nodes[value.node].note.address_in(tasks[0]),
            tasks=tuple(tasks),
            source=source,
            column=value.column_id,
            partitions=len(partitions),
            rows=sum(receipt.rows for receipt in receipts if receipt is not None),
            bytes=sum(receipt.bytes for receipt in receipts if receipt is not None),
        )


def _find_others(mixture: Mixture, store: Store, planned: Plan) -> Iterator[str]:
    """Yield the tasks of ``store``, none of them in ``mixture``, that were built with what is to be fitted."""
    artifacts: Mapping[str, Any] = store.artifacts()
    digests = {artifacts[name].digest for name in planned.fits if name in artifacts}
    for name in sorted({*store.tasks()} - {task.name for task in mixture.tasks}):
        with suppress(PlanError):  # written by code that spelled graphs otherwise
            graph = Graph.parse(store.task(name)["graph"])
            if any(node.params.get("digest") in digests for node in graph):
                yield name


__all__ = ["FitReport", "Follower", "fit"]
