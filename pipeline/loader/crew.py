"""The crew of a loader: threads and worker processes for what is computed anew in every pass.

Threads will do for ops that release the GIL, as decoders do. An op that holds it would take turns with the
training loop; it is asked of worker processes, and so is native code that parses bytes from outside, which may
crash on them.
"""

from __future__ import annotations

import pickle
import tempfile
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, lru_cache
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import get_ident
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ...storage.template import Gathered
from ..host.pool import WorkerPool

Ints: TypeAlias = npt.NDArray[np.int64]
Compute: TypeAlias = Callable[[Sequence[Gathered], Ints, Ints], Gathered]
"""Returns what becomes of rows of stored columns: what was gathered, the rows, and the pass of each."""

_MOST_WORKERS: Final = 8


class Doing:
    """What threads are at, for whoever waits for them."""

    def __init__(self) -> None:
        self._notes: dict[int, str] = {}

    @contextmanager
    def note(self, what: str) -> Generator[None]:
        """Let it be known that this thread is at ``what``."""
        self._notes[get_ident()] = what
        try:
            yield
        finally:
            del self._notes[get_ident()]

    def tell(self) -> str:
        """Return what the thread is at that began first; empty if none is at anything."""
        return next(iter(self._notes.copy().values()), "")


class Crew:
    """At most ``num_workers`` threads and as many processes, started when they are first needed.

    They end with the crew.
    """

    def __init__(self, num_workers: int = 0, *, timeout_s: float = 600.0) -> None:
        """Hire nobody yet.

        Args:
            num_workers: Most that compute at a time; if 0 one for each core but the one that trains, and at
                most eight.
            timeout_s: Seconds for which the loader is waited for. A worker process that needs twice as long is
                stopped.
        """
        self.num_workers = num_workers or _choose_number()
        self._timeout_s = 2 * timeout_s
        self._files: dict[Compute, str] = {}
        self._ending = ExitStack()
        weakref.finalize(self, self._ending.close)

    def map(self, function: Callable[[int], Gathered], parts: Iterable[int]) -> list[Gathered]:
        """Return what ``function`` gives for each of ``parts``, or raise what it raises first of all."""
        return [*self._threads.imap(function, parts)]

    def ask(
        self, compute: Compute, gathered: Sequence[Gathered], rows: Ints, passes: Ints
    ) -> Gathered:
        """Return what ``compute``, which pickles, returns in a worker process.

        Raises:
            WorkerDiedError: The process died (T0320).
            OpError: It took too long (T0321).
            Exception: What ``compute`` raised.
        """
        argument = (self._write(compute), gathered, rows, passes)
        made: Any = self._processes.call(f"{__name__}:compute_part", argument, lambda _: None)
        return made

    @cached_property
    def _threads(self) -> ThreadPool:
        # Not those of concurrent.futures: Python waits for them at its end, for ever if an op hangs.
        return self._ending.enter_context(ThreadPool(self.num_workers))

    @cached_property
    def _processes(self) -> WorkerPool:
        return self._ending.enter_context(WorkerPool(self.num_workers, timeout_s=self._timeout_s))

    @cached_property
    def _folder(self) -> Path:
        return Path(self._ending.enter_context(tempfile.TemporaryDirectory(prefix="taskloom-")))

    def _write(self, compute: Compute) -> str:
        """Return the file that holds ``compute``, so that each process reads it once."""
        if compute not in self._files:
            path = self._folder / str(len(self._files))
            path.write_bytes(pickle.dumps(compute))
            self._files[compute] = str(path)
        return self._files[compute]


def _choose_number() -> int:
    from dask.system import CPU_COUNT  # noqa: PLC0415 - a model that only answers needs no Dask

    return min(_MOST_WORKERS, max(1, CPU_COUNT - 1))


def compute_part(argument: tuple[str, Sequence[Gathered], Ints, Ints], _: object) -> Gathered:
    """Return what the function in a file makes of some rows; called in a worker process."""
    path, gathered, rows, passes = argument
    return _read(path)(gathered, rows, passes)


@lru_cache
def _read(path: str) -> Compute:
    return pickle.loads(Path(path).read_bytes())


__all__ = ["Compute", "Crew", "Doing", "compute_part"]
