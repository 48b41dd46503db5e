"""Running the jobs of a build on this machine: on Dask's threads, which watch over worker processes.

Dask computes a few jobs at a time, a *wave*, and one wave for each thread at once: while the last job of a wave
runs, the other waves have jobs for every other thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

from dask.base import compute
from dask.delayed import delayed
from dask.system import CPU_COUNT

from ..host.pool import WorkerPool
from ..host.worker import resolve
from .job import Job
from .scheduler import JOBS_A_WORKER, Count, MergeTree, run_job


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
    """Dask's threads, and processes for the jobs that need them.

    Attributes:
        num_workers: Jobs that run at the same time.
        pool: The processes.
        threads: The threads.
    """

    def __init__(self, pool: WorkerPool, num_workers: int) -> None:
        self.num_workers = num_workers
        self.pool = pool
        self.threads = ThreadPoolExecutor(num_workers, thread_name_prefix="taskloom-job")
        self._stopped = threading.Event()

    def map(self, function: str, jobs: Iterable[Job], count: Count) -> Generator[Any]:
        """Yield results as they come."""
        run = _Run(self, function, jobs, count)
        for _ in range(self.num_workers):
            threading.Thread(target=run.work, name="taskloom-dask", daemon=True).start()
        working = self.num_workers
        while working:
            result = run.results.get()
            if isinstance(result, _Failed):
                raise result.error
            if result is _DONE:
                working -= 1
            else:
                yield result

    def fold(self, function: str, merge: str, jobs: Iterable[Job], count: Count) -> Any:
        """Merge results as they come: what is held grows with the height of the tree."""
        merge_all = resolve(merge)
        tree = MergeTree()
        for result in self.map(function, jobs, count):
            merged, height = result, 0
            while group := tree.add(merged, height):
                merged, height = merge_all(group), height + 1
        rest = tree.rest()
        return merge_all(rest) if rest else None

    def stop(self) -> None:
        """Break off the jobs that are running, and begin no more."""
        self._stopped.set()
        self.threads.shutdown(wait=False)

    def check(self) -> None:
        """Raise if nobody waits for jobs any more."""
        if self._stopped.is_set():
            raise _StoppedError


class _Run:
    """Jobs on the way, and what comes of them.

    Attributes:
        results: What has come of jobs; `_Failed` if something ends the build, `_DONE` when a thread is through.
    """

    def __init__(
        self, machine: LocalMachine, function: str, jobs: Iterable[Job], count: Count
    ) -> None:
        self._machine = machine
        self._function = function
        self._jobs = iter(jobs)
        self._count = count
        self._lock = threading.Lock()
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def work(self) -> None:
        """Compute one wave after the other."""
        try:
            while wave := self._next_wave():
                # Dask knows jobs by number: it would search each of them for collections of its own. Of tasks
                # that wait for nothing it takes the last name first.
                run_later = delayed(partial(self._run, wave), traverse=False)
                names = [f"taskloom-{number:09}" for number in range(len(wave), 0, -1)]
                tasks = [run_later(i, dask_key_name=name) for i, name in enumerate(names)]
                compute(*tasks, scheduler="threads", pool=self._machine.threads)
            self.results.put(_DONE)
        except _StoppedError:
            self.results.put(_DONE)  # another thread has said why
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self.results.put(_Failed(error))
            self._machine.stop()

    def _next_wave(self) -> list[Job]:
        with self._lock:
            return list(islice(self._jobs, JOBS_A_WORKER))

    def _run(self, wave: list[Job], number: int) -> None:
        job = wave[number]

        def count(rows: int, rejects: int) -> None:
            self._machine.check()
            self._count(job.name, rows, rejects)

        self._machine.check()
        self.results.put(run_job(self._function, job, self._machine.pool, count))


class _StoppedError(Exception):
    """The build is over before this job is."""


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_DONE = object()
