"""Running the jobs of a build on this machine: on Dask's threads, which watch over worker processes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from dask.base import compute
from dask.delayed import delayed
from dask.system import CPU_COUNT

from .job import Job
from .pool import WorkerPool
from .progress import Bar
from .scheduler import run_job


@contextmanager
def open_machine(num_workers: int | None, timeout_s: float) -> Generator[LocalMachine]:
    """Use ``num_workers`` threads and as many processes; one for each core that may be used if not given.

    Jobs that still run when this ends are broken off; what they have not committed is lost.
    """
    num_workers = num_workers or CPU_COUNT
    with WorkerPool(num_workers, timeout_s=timeout_s) as pool:
        machine = LocalMachine(pool, num_workers)
        try:
            yield machine
        finally:
            machine.stop()


class LocalMachine:
    """Dask's threads, and processes for the jobs that need them."""

    def __init__(self, pool: WorkerPool, num_workers: int) -> None:
        self._pool = pool
        self._num_workers = num_workers
        self._stopped = threading.Event()

    def map(self, function: str, jobs: Sequence[Job], bar: Bar) -> Generator[Any]:
        """Yield results as they come."""
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def count(rows: int, rejects: int) -> None:
            self._check()
            bar.advance(rows, rejects)

        def run(number: int) -> None:
            self._check()
            results.put(run_job(function, jobs[number], self._pool, count))

        def work() -> None:
            try:
                # Dask knows jobs by number: it would search each of them for collections of its own. Of tasks
                # that wait for nothing it takes the last name first.
                run_later = delayed(run, traverse=False)
                names = [f"taskloom-{number:09}" for number in range(len(jobs), 0, -1)]
                tasks = [run_later(i, dask_key_name=name) for i, name in enumerate(names)]
                compute(*tasks, scheduler="threads", num_workers=self._num_workers)
                results.put(_DONE)
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
                self.stop()
                results.put(_Failed(error))

        threading.Thread(target=work, name="taskloom-dask", daemon=True).start()
        while (result := results.get()) is not _DONE:
            if isinstance(result, _Failed):
                raise result.error
            yield result

    def stop(self) -> None:
        """Break off the jobs that are running, and begin no more."""
        self._stopped.set()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The build is over before this job is."""


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_DONE = object()
