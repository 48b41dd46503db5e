"""What runs the jobs of a build, wherever that is, and how one job is run.

Jobs that gain nothing from threads, or that parse bytes from outside, run in worker processes of their own
(`pool`), each watched over by the thread that Dask has given the job to: on this machine (`machine`) and on
every machine of a cluster (`cluster`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ..graph.errors import TaskloomError
from .job import Job
from .pool import WorkerDiedError, WorkerPool
from .progress import Bar
from .worker import resolve


class Scheduler(Protocol):
    """Something that runs jobs and hands back their results as they come."""

    def map(self, function: str, jobs: Sequence[Job], bar: Bar) -> Iterator[Any]:
        """Call ``function``, a ``"module:name"``, on every job and yield results in any order.

        Args:
            function: Takes a job and a function that reports progress.
            jobs: The jobs.
            bar: Shows the progress that is reported.
        """
        ...


def run_job(
    function: str, job: Job, pool: WorkerPool, count: Callable[[int, int], None] | None = None
) -> Any:
    """Call ``function`` on ``job`` here or in a process of ``pool``, and again if that process dies.

    Args:
        function: A ``"module:name"`` that takes the job and a function that reports progress.
        job: The job.
        pool: The processes.
        count: Takes how many rows were done and rejected since the last time; negative numbers take back
            what is done again. It may raise to break the job off.

    Raises:
        TaskloomError: Something is wrong; where is filled in.
    """
    done = rejects = 0

    def report(progress: Any) -> None:
        add(progress.rows, progress.rejects)

    def add(more_done: int, more_rejects: int) -> None:
        nonlocal done, rejects
        done, rejects = done + more_done, rejects + more_rejects
        if count is not None:
            count(more_done, more_rejects)

    def run() -> Any:
        if job.needs_process:
            return pool.call(function, job, report)
        return resolve(function)(job, report)

    try:
        try:
            return run()
        except WorkerDiedError:
            # Once may be bad luck, on a machine short of memory for example; twice is not.
            add(-done, -rejects)
            return run()
    except TaskloomError as error:
        located = job.locate(error, done)
        raise located.with_traceback(error.__traceback__) from error.__cause__
