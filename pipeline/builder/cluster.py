"""Running the jobs of a build on a cluster: on whatever a `distributed.Client` is connected to.

Every machine of the cluster must see the store and the files of the sources under the same paths.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final, Self

from distributed import Client, KilledWorker, Worker, WorkerPlugin, as_completed, get_worker
from distributed.comm.core import CommClosedError

from ...graph.errors import OpError
from ..host.pool import WorkerDiedError, WorkerPool
from ..host.worker import resolve
from .job import Job
from .scheduler import JOBS_A_WORKER, Count, MergeTree, run_job

_FEWEST_JOBS: Final = 16
"""Jobs that a cluster without workers is given, so that one that grows with its work begins to."""

_TRIES: Final = 5
"""Times that workers are told what they need before one that dies meanwhile ends the build."""

_LOOK_EVERY_S: Final = 5.0
"""Seconds after which workers are counted again: clusters grow and shrink."""


@contextmanager
def open_cluster(client: Client, timeout_s: float) -> Generator[Cluster]:
    """Use the workers of a cluster, each with processes beside it for the jobs that need one.

    Args:
        client: The connection.
        timeout_s: Seconds a process may go without a sign of progress before it is killed.

    Raises:
        OpError: The connection to the scheduler is lost.
    """
    plugin = _Pools(timeout_s)
    try:
        _register(client, plugin)
        yield Cluster(client, plugin.name)
    except (CancelledError, CommClosedError) as error:
        raise _lost(client) from error
    except OSError as error:
        if client.status == "running":  # it is about something else, such as a disk
            raise
        raise _lost(client) from error
    finally:
        with suppress(Exception):  # of a scheduler that is gone nobody is left to ask
            client.unregister_worker_plugin(plugin.name)


class Cluster:
    """A client, and the name of the pools of its workers."""

    def __init__(self, client: Client, pools: str) -> None:
        self._client = client
        self._pools = pools
        self._most = _FEWEST_JOBS
        self._looked = -_LOOK_EVERY_S

    @property
    def num_workers(self) -> int:
        """Threads of all workers that are there now."""
        nthreads: Any = self._client.nthreads()
        return sum(nthreads.values())

    def map(self, function: str, jobs: Iterable[Job], count: Count) -> Iterator[Any]:
        """Yield results as they come; where a machine is lost, its jobs are tried elsewhere."""
        with _Flight(self._client) as flight:
            waiting = iter(jobs)
            self._fill(flight, function, waiting)
            for (job, _), future in flight:
                result = _result(job, future)
                # First, for what is done with a result may take a while.
                self._fill(flight, function, waiting)
                count(job.name, job.rows, 0)
                yield result

    def fold(self, function: str, merge: str, jobs: Iterable[Job], count: Count) -> Any:
        """Merge results on the workers, a few of equal height in the tree at a time; only one comes here."""
        tree = MergeTree()
        with _Flight(self._client) as flight:
            waiting = iter(jobs)
            self._fill(flight, function, waiting)
            for (job, height), future in flight:
                if future.status != "finished":
                    _result(job, future)  # raises
                if not height:
                    count(job.name, job.rows, 0)
                if group := tree.add(future, height):
                    flight.submit((job, height + 1), _merge, merge, group)
                self._fill(flight, function, waiting)
            rest = tree.rest()
            return self._client.submit(_merge, merge, rest, pure=False).result() if rest else None

    def _fill(self, flight: _Flight, function: str, waiting: Iterator[Job]) -> None:
        """Give the cluster as many jobs as keep its workers busy for a while."""
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._most = max(_FEWEST_JOBS, JOBS_A_WORKER * self.num_workers)
        for job in islice(waiting, max(0, self._most - len(flight))):
            flight.submit((job, 0), _run, function, job, self._pools)


class _Flight:
    """The tasks that a cluster was given and has not handed back, each with a mark of ours."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._marks: dict[Any, Any] = {}
        self._completed: Any = as_completed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.cancel(list(self._marks))

    def __len__(self) -> int:
        return len(self._marks)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield mark and future of each task when it is done; more may be submitted meanwhile."""
        for future in self._completed:
            yield self._marks.pop(future), future

    def submit(self, mark: Any, function: Any, *arguments: Any) -> None:
        """Give the cluster a task."""
        future = self._client.submit(function, *arguments, pure=False)
        self._marks[future] = mark
        self._completed.add(future)


class _Pools(WorkerPlugin):
    """A pool of processes beside each worker of the cluster."""

    def __init__(self, timeout_s: float) -> None:
        self.name = f"taskloom-{uuid.uuid4().hex}"
        self._timeout_s = timeout_s
        self.pool: WorkerPool | None = None

    def setup(self, worker: Worker) -> None:
        """Open the pool of ``worker``."""
        self.pool = WorkerPool(worker.state.nthreads, timeout_s=self._timeout_s)

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - given by distributed
        """Close it."""
        if self.pool is not None:
            self.pool.close()


def _register(client: Client, plugin: WorkerPlugin) -> None:
    """Give ``plugin`` to all workers, and to those that come later."""
    for _ in range(_TRIES):
        try:
            client.register_plugin(plugin)
        except OSError:  # a worker died while it was told; the scheduler may be well
            if client.status != "running":
                raise
        else:
            return
    client.register_plugin(plugin)


def _run(function: str, job: Job, pools: str) -> Any:
    plugin: Any = get_worker().plugins[pools]
    return run_job(function, job, plugin.pool)


def _merge(merge: str, results: list[Any]) -> Any:
    return resolve(merge)(results)


def _result(job: Job, future: Any) -> Any:
    """Return what came of ``job``.

    Raises:
        TaskloomError: Something is wrong with it.
    """
    try:
        return future.result()
    except KilledWorker as error:
        message = (
            f"{error.allowed_failures + 1} workers of the cluster died while they were at this partition, "
            f"the last at {error.last_worker.address}"
        )
        help_ = (
            "the logs of the workers say why; most often memory ran out: give them more, or fewer threads\n"
            "nothing committed is lost: build again"
        )
        died = job.locate(WorkerDiedError.of("T0320", message, help_), 0)
        if job.raises:
            raise died from error
        return job.fail(died)


def _lost(client: Client) -> OpError:
    address = client.scheduler.address if client.scheduler else "its address"
    message = f"the scheduler of the cluster, at {address}, is gone, or has cancelled the work"
    return OpError.of(
        "T0323", message, "nothing committed is lost: start the cluster and build again"
    )
