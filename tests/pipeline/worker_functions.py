"""What worker processes are asked to do in tests. They find it by name, and import no other test."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from taskloom.graph.errors import OpError, Problem, SourceError
from taskloom.ops.errors import RowErrors, bad_row

Report = Callable[[object], None]


class StubbornError(Exception):
    """An error that cannot cross to another process."""

    def __init__(self, what: str, why: object) -> None:
        super().__init__(f"{what}: {why}")


class UnportableError(OpError):
    """An error of ours that cannot cross either."""

    def __init__(self, problem: Problem, why: object) -> None:
        super().__init__(problem)
        self.why = why


def double(number: int, report: Report) -> int:
    """Return twice ``number``."""
    report("half way")
    return 2 * number


def describe(_: object, report: Report) -> dict[str, object]:
    """Return facts of this process."""
    del report
    names = ("torch", "__main__", "dask", "taskloom.pipeline.builder.partition")
    return {
        "pid": os.getpid(),
        "modules": [name for name in names if name in sys.modules],
        "path": list(sys.path),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def build_one(_: object, report: Report) -> list[str]:
    """Return the modules that a worker has imported once it is ready to build."""
    del report
    from taskloom.pipeline.builder import partition  # noqa: PLC0415 - in the worker alone

    assert partition.build_partition
    return sorted(sys.modules)


def fail(how: str, report: Report) -> object:
    """Raise, in some way."""
    del report
    if how == "named":
        raise OpError.of("T0303", "bad", "mend it")
    if how == "rows":
        raise RowErrors({3: bad_row("T0301", "odd", b"abc")})
    if how == "plain":
        raise KeyError("missing")
    if how == "unportable":
        raise UnportableError(Problem("T0303", "odd"), "not pickle")
    raise StubbornError("will", "not pickle")


def raise_given(error: Exception, report: Report | None) -> None:
    """Raise ``error``."""
    del report
    raise error


def die(marker: str | None, report: Report) -> str:
    """Die at once; with a ``marker``, only while there is no such file."""
    del report
    if marker is None or not Path(marker).exists():
        if marker is not None:
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def sleep(seconds: float, report: Report) -> int:
    """Sleep in one piece, having said which process does."""
    report(os.getpid())
    time.sleep(seconds)
    return os.getpid()


def walk(number: int, report: Report) -> int:
    """Take ``number`` short steps and say so after each."""
    for step in range(number):
        time.sleep(0.1)
        report(step)
    return number


def build_nameless(job: Any, report: Any) -> object:
    """Build a partition with ops that do not say which rows they refuse."""
    from taskloom.ops.host.image import DecodeImages  # noqa: PLC0415 - most workers need no op
    from taskloom.ops.host.text import FormatTexts  # noqa: PLC0415 - as above
    from taskloom.pipeline.builder.partition import build_partition  # noqa: PLC0415 - as above

    for op in (DecodeImages, FormatTexts):
        if not hasattr(op.__call__, "is_nameless"):
            op.__call__ = nameless(op.__call__)
    return build_partition(job, report)


def nameless(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``compute`` such that it tells what is wrong with the first bad row, and not which it is."""

    @wraps(compute)
    def compute_all(*arguments: Any, **given: Any) -> Any:
        try:
            return compute(*arguments, **given)
        except RowErrors as errors:
            raise ArithmeticError(errors.problems[0].message) from None

    marked: Any = compute_all
    marked.is_nameless = True
    return compute_all


def die_here(job: object, report: Report) -> None:
    """Die at once, whoever this process is."""
    del job, report
    os.kill(os.getpid(), signal.SIGKILL)


class Done(NamedTuple):
    """Progress."""

    rows: int
    rejects: int


RAN: list[str] = []
"""Names of the jobs that `note` has seen in this process."""


def note(job: Any, report: Any) -> str:
    """Do nothing but take note of the job and return its name."""
    report(Done(job.rows, 0))
    RAN.append(job.name)
    return job.name


def fail_some(job: Any, report: Any) -> str:
    """Fail as a file does that cannot be read, at every third job."""
    if int(job.name) % 3 == 0:
        raise SourceError.of("T0401", f"{job.name} cannot be read")
    return note(job, report)


def join(results: list[str]) -> str:
    """Return the names that `note` and this have returned."""
    return " ".join(results)


def build_poisoned(job: Any, report: Any) -> object:
    """Build a partition; crash or hang at the one that the environment names, as a decoder may."""
    from taskloom.pipeline.builder.partition import build_partition  # noqa: PLC0415 - most workers need none

    poisoned, _, how = os.environ["POISONED"].partition(":")
    if job.partition != poisoned or not job.needs_process:
        return build_partition(job, report)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(600)
    raise AssertionError("nobody stopped this")
