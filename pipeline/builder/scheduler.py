"""What runs the jobs of a build, wherever that is, and how one job is run.

Jobs that gain nothing from threads, or that parse bytes from outside, run in worker processes of their own
(`pool`), each watched over by the thread that Dask has given the job to: on this machine (`machine`) and on
every machine of a cluster (`cluster`). Jobs are made as they are needed, so that a build of fifty thousand
partitions holds no more of them at a time than keep the workers busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from ...graph.errors import SourceError, TaskloomError
from ..host.pool import WorkerDiedError, WorkerPool
from ..host.worker import resolve
from .job import Job

JOBS_A_WORKER: Final = 4
"""Jobs that are made for each thread of the workers: one that runs, and some to follow it at once."""

Count: TypeAlias = Callable[[str, int, int], None]
"""Takes the name of a job, and how many of its rows were done and rejected since the last time.

Negative numbers take back what is done again.
"""


_GROUP: Final = 8
"""Results that are merged at a time."""


class Scheduler(Protocol):
    """Something that runs jobs and hands back their results as they come."""

    @property
    def num_workers(self) -> int:
        """Jobs that run at the same time."""
        ...

    def map(self, function: str, jobs: Iterable[Job], count: Count) -> Iterator[Any]:
        """Call ``function``, a ``"module:name"``, on every job and yield results in any order.

        A job whose partition cannot be built gives a `job.JobFailure`, unless it says that it ``raises``.

        Args:
            function: Takes a job and a function that reports progress.
            jobs: The jobs, made one after the other while others run.
            count: Takes progress.
        """
        ...

    def fold(self, function: str, merge: str, jobs: Iterable[Job], count: Count) -> Any:
        """Call ``function`` on every job and return the results merged into one; None if there are no jobs.

        Args:
            function: As in `map`; its jobs raise.
            merge: A ``"module:name"`` that takes a list of results and returns one. It is called on results
                in any order, and on what it has returned.
            jobs: As in `map`.
            count: As in `map`.
        """
        ...


@dataclass(slots=True)
class MergeTree:
    """Results that wait for others of equal height, so that none is merged again and again."""

    _ready: dict[int, list[Any]] = field(default_factory=dict[int, list[Any]])

    def add(self, result: Any, height: int) -> list[Any]:
        """Keep ``result``; return those that are to be merged into one a step higher, if they are enough."""
        group = self._ready.setdefault(height, [])
        group.append(result)
        return self._ready.pop(height) if len(group) == _GROUP else []

    def rest(self) -> list[Any]:
        """Return all that wait."""
        return [result for group in self._ready.values() for result in group]


def run_job(
    function: str, job: Job, pool: WorkerPool, count: Callable[[int, int], None] | None = None
) -> Any:
    """Call ``function`` on ``job`` here or in a process of ``pool``, and again if that process dies.

    Args:
        function: A ``"module:name"`` that takes the job and a function that reports progress.
        job: The job.
        pool: The processes.
        count: Takes how many rows were done and rejected since the last time. It may raise to break the job
            off.

    Returns:
        The result; or, where only this partition is concerned, and the job does not raise, its failure.

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
        if not job.raises and _is_of_one_partition(error):
            run.add(job.rows - run.done, 0)
            return job.fail(located)
        raise located.with_traceback(error.__traceback__) from error.__cause__
    except Exception as error:
        error.add_note(f"in partition {job.place}")
        raise


def _is_of_one_partition(error: TaskloomError) -> bool:
    """Return whether ``error`` leaves hope for other partitions; a full disk or a broken op does not."""
    is_stuck = error.problems[0].code == "T0321"
    return is_stuck or isinstance(error, SourceError | WorkerDiedError)


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
