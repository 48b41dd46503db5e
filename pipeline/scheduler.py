"""Where Dask runs the jobs of a build: threads and worker processes of this machine, or a cluster.

Jobs that gain nothing from threads, or that parse bytes from outside, run in worker processes of their own
(`pool`), each watched over by one of Dask's threads. On a cluster every job runs in one of its workers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from dask.base import compute
from dask.delayed import delayed

from ..graph.errors import MissingExtraError
from .pool import WorkerPool
from .progress import Bar
from .worker import Report, resolve


class Scheduler(Protocol):
    """Something that runs jobs and hands back their results as they come."""

    def map(self, function: str, jobs: Sequence[tuple[Any, bool]], bar: Bar) -> Iterator[Any]:
        """Call ``function``, a ``"module:name"``, on every job and yield results in any order.

        Args:
            function: Takes a job and a function that reports progress.
            jobs: Each with whether it needs a process of its own.
            bar: Shows the progress that is reported.
        """
        ...


@contextmanager
def open_scheduler(client: Any, num_workers: int, timeout_s: float) -> Generator[Scheduler]:
    """Open a scheduler on ``client``, or on ``num_workers`` threads and processes of this machine."""
    if client is not None:
        yield Cluster(client)
        return
    with WorkerPool(num_workers, timeout_s=timeout_s) as pool:
        yield LocalMachine(pool, num_workers)


class LocalMachine:
    """Dask's threads, and worker processes for the jobs that need them."""

    def __init__(self, pool: WorkerPool, num_workers: int) -> None:
        self._pool = pool
        self._num_workers = num_workers

    def map(self, function: str, jobs: Sequence[tuple[Any, bool]], bar: Bar) -> Generator[Any]:
        """Yield results as they come."""
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stopped = threading.Event()

        def run(job: Any, needs_process: bool) -> None:  # noqa: FBT001 - Dask calls it
            if not stopped.is_set():
                results.put(self._call(function, job, bar, needs_process=needs_process))

        def work() -> None:
            try:
                tasks = [delayed(run, pure=False, traverse=False)(*job) for job in jobs]
                compute(*tasks, scheduler="threads", num_workers=self._num_workers)
                results.put(_DONE)
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
                stopped.set()
                results.put(_Failed(error))

        threading.Thread(target=work, name="taskloom-dask", daemon=True).start()
        try:
            while (result := results.get()) is not _DONE:
                if isinstance(result, _Failed):
                    raise result.error
                yield result
        finally:
            stopped.set()

    def _call(self, function: str, job: Any, bar: Bar, *, needs_process: bool) -> Any:
        def report(progress: Any) -> None:
            bar.advance(progress.rows)

        if needs_process:
            return self._pool.call(function, job, report)
        return resolve(function)(job, report)


class Cluster:
    """A `distributed.Client`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, function: str, jobs: Sequence[tuple[Any, bool]], bar: Bar) -> Iterator[Any]:
        """Yield results as they come; a worker that dies is replaced, and its job tried again."""
        try:
            from distributed import as_completed  # noqa: PLC0415 - an extra
        except ImportError as error:
            message = "building on a cluster needs the extra cluster"
            raise MissingExtraError.of(
                "T0901", message, 'pip install "taskloom[cluster]"'
            ) from error
        futures = {
            self._client.submit(_run, function, job, pure=False, retries=2): job for job, _ in jobs
        }
        try:
            for future in as_completed(futures):
                yield future.result()
                bar.advance(futures[future].rows)
        finally:
            self._client.cancel(list(futures))


def _run(function: str, job: Any) -> Any:
    return resolve(function)(job, _ignore)


def _ignore(progress: object) -> None:
    pass


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_DONE = object()

__all__ = ["Cluster", "LocalMachine", "Report", "Scheduler", "open_scheduler"]
