"""What runs the jobs of a build, wherever that is, and how one job is run.

Jobs that gain nothing from threads, or that parse bytes from outside, run in worker processes of their own
(`pool`), each watched over by the thread that Dask has given the job to: on this machine (`machine`) and on
every machine of a cluster (`cluster`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
        Exception: Nobody foresaw it; a note says where.
    """
    run = _JobRun(function, job, pool, count)
    try:
        try:
            return run.try_once()
        except WorkerDiedError:
            # Once may be bad luck, on a machine short of memory for example; twice is not.
            run.add(-run.done, -run.rejects)
            return run.try_once()
    except TaskloomError as error:
        located = job.locate(error, run.done)
        raise located.with_traceback(error.__traceback__) from error.__cause__
    except Exception as error:
        error.add_note(f"in partition {job.place}")
        raise


@dataclass(slots=True)
class _JobRun:
    """A job on the way."""

    function: str
    job: Job
    pool: WorkerPool
    count: Callable[[int, int], None] | None
    done: int = 0
    rejects: int = 0

    def try_once(self) -> Any:
        if self.job.needs_process:
            return self.pool.call(self.function, self.job, self.report)
        return resolve(self.function)(self.job, self.report)

    def report(self, progress: Any) -> None:
        self.add(progress.rows, progress.rejects)

    def add(self, done: int, rejects: int) -> None:
        self.done += done
        self.rejects += rejects
        if self.count is not None:
            self.count(done, rejects)
