"""What a build did, counted in rows of sources: a row that several columns need is one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...graph.errors import OpError, Problem, SourceError, TaskloomError
from ...storage.files import count_bytes
from .estimate import Estimate
from .job import JobFailure
from .partition import JobReport

_MAX_TOLD = 20
"""Tasks and nodes whose bad rows are told of one by one."""


class TaskCount(NamedTuple):
    """How a task stands in the store.

    Attributes:
        rows: Rows that its filters keep.
        rejects: Those of them that lack a value it needs.
    """

    rows: int
    rejects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did, or would do.

    Attributes:
        partitions: Partitions of columns that were computed, or are missing if it was a dry run.
        cached: Those that were there already.
        rows: Rows of sources that something was computed for, or is to be.
        rejects: Those of them that are bad, and kept by the filters of some task.
        bytes: Bytes that were written; in a dry run those that dense columns would take.
        estimate: In a dry run, what all columns would take, as far as that is known.
        tasks: How each task stands in the store, whatever was computed now; empty in a dry run.
        fitted: Names of the artifacts that were fitted, or would be.
        problems: The first problem of every node that refused a row.
        seconds: How long it took.
        is_dry: Whether nothing was computed.
    """

    partitions: int
    cached: int
    rows: int = 0
    rejects: int = 0
    bytes: int = 0
    estimate: Estimate = field(default_factory=Estimate)
    tasks: Mapping[str, TaskCount] = field(default_factory=dict[str, TaskCount])
    fitted: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    is_dry: bool = False

    def __str__(self) -> str:
        return "\n".join([self._summary(), *self._bad_tasks(), *self._first_problems()])

    def _summary(self) -> str:
        if self.is_dry:
            told = tell_estimate(self.partitions, self.cached, self.estimate)
            return f"{told}, after fitting {', '.join(self.fitted)}" if self.fitted else told
        if not self.partitions and not self.fitted:
            return f"nothing to build: all {self.cached:,} column partitions are cached"
        return (
            f"{self.partitions:,} column partitions built, {self.cached:,} cached; "
            f"{self.rows:,} rows, {self.rejects:,} rejected, "
            f"{count_bytes(self.bytes)} in {self.seconds:.1f} s"
        )

    def _bad_tasks(self) -> Iterator[str]:
        bad = {name: count for name, count in self.tasks.items() if count.rejects}
        for name, count in list(bad.items())[:_MAX_TOLD]:
            yield f"{name}: {count.rejects:,} of {count.rows:,} rows are bad; the ledger says why"
        if len(bad) > _MAX_TOLD:
            yield f"and {len(bad) - _MAX_TOLD:,} more tasks"

    def _first_problems(self) -> Iterator[str]:
        yield from map(str, self.problems[:_MAX_TOLD])
        if len(self.problems) > _MAX_TOLD:
            yield f"and {len(self.problems) - _MAX_TOLD:,} more nodes refuse rows"


def tell_estimate(partitions: int, cached: int, estimate: Estimate) -> str:
    """Return what is to be built, and the disk it takes as far as that is known beforehand."""
    told = f"{partitions:,} column partitions to build, {cached:,} cached"
    return f"{told}; {estimate}" if str(estimate) else told


@dataclass(slots=True)
class Tally:
    """The reports of a build's jobs, added up.

    Attributes:
        rows: Rows that the build goes through in all.
        max_errors: Most bad rows among them: a count, or a share below 1; None for no limit.
        tell: Adds to the problem of a row how to try it again.
    """

    rows: int
    max_errors: float | None
    tell: Callable[[Problem], Problem] = lambda problem: problem
    _bad: dict[tuple[str, str], npt.NDArray[np.uint32]] = field(init=False, default_factory=dict)
    _problems: dict[str, Problem] = field(init=False, default_factory=dict)
    _bytes: int = field(init=False, default=0)
    _rejects: int = field(init=False, default=0)
    _jobs: int = field(init=False, default=0)
    failures: list[JobFailure] = field(init=False, default_factory=list[JobFailure])

    def add(self, report: JobReport) -> None:
        """Add the report of one job.

        Raises:
            OpError: There are too many bad rows.
        """
        self._jobs += 1
        place = report.source, report.partition
        before = self._bad.get(place, np.zeros(0, np.uint32))
        self._bad[place] = np.union1d(before, report.bad)
        self._rejects += len(self._bad[place]) - len(before)
        self._bytes += report.bytes
        for problem in report.first:
            known = self._problems.setdefault(problem.address, problem)
            # Jobs end in any order, and equal builds say equal things.
            self._problems[problem.address] = min(known, problem, key=lambda p: p.row)
        self._check()

    def fail(self, failure: JobFailure) -> None:
        """Take note of a partition that cannot be built.

        Raises:
            TaskloomError: It is one of so many that it is not they that are at fault.
        """
        self.failures.append(failure)
        if len(self.failures) > max(_MAX_TOLD, self._jobs):
            raise self._failed("the build was given up: more partitions failed than were built")

    def check_failures(self) -> None:
        """Raise if some partitions could not be built.

        Raises:
            TaskloomError: Every one of them is named.
        """
        if self.failures:
            raise self._failed("all others are")

    def report(self, partitions: int, cached: int) -> BuildReport:
        """Return what the build did."""
        return BuildReport(
            partitions=partitions,
            cached=cached,
            rows=self.rows,
            rejects=self._rejects,
            bytes=self._bytes,
            problems=tuple(self._told()),
        )

    def _failed(self, rest: str) -> TaskloomError:
        errors = [failure.error for failure in sorted(self.failures, key=lambda f: f.place)]
        places = [failure.place for failure in self.failures]
        unique = sorted(set(places))
        message = f"{len(unique):,} partition{'s'[: len(unique) != 1]} could not be built; {rest}"
        help_ = "mend what is said below and build again: only what is missing is computed"
        if left := unique[_MAX_TOLD:]:
            help_ += f"\nbeside those below: {', '.join(left)}"
        problems = [error.problems[0] for error in errors][:_MAX_TOLD]
        are_unread = all(isinstance(error, SourceError) for error in errors)
        kind = SourceError if are_unread else OpError
        return kind(Problem("T0322", message, help_), *problems)

    def _told(self) -> Iterator[Problem]:
        """Yield the first problem of every node, in the order of their addresses."""
        for address in sorted(self._problems):
            yield self.tell(self._problems[address])

    def _check(self) -> None:
        if self.max_errors is None:
            return
        limit = self.max_errors * self.rows if self.max_errors < 1 else self.max_errors
        if self._rejects > limit:
            most = f"{self.max_errors:g}" + (f" of {self.rows:,}" if self.max_errors < 1 else "")
            message = f"{self._rejects:,} rows are bad, and max_errors allows {most}"
            help_ = "what was built stays; mend the rows, or raise max_errors, and build again"
            raise OpError(Problem("T0313", message, help_), *self._told())
