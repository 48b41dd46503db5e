"""Worker processes on this machine, for ops that hold the GIL or parse bytes from outside."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from ...graph.errors import OpError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS")


class WorkerDiedError(OpError):
    """A worker process ended in the middle of a call."""


class WorkerPool:
    """At most ``num_workers`` processes, started when they are first needed.

    Any number of threads may call; a call waits for an idle worker.
    """

    def __init__(self, num_workers: int, *, timeout_s: float = 300.0) -> None:
        """Create the pool.

        Args:
            num_workers: Most processes at a time.
            timeout_s: Seconds a worker may go without a sign of progress before it is killed.
        """
        self._timeout_s = timeout_s
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._started: set[_Worker] = set()
        self._is_closed = False
        for _ in range(num_workers):
            self._idle.put(None)

    def call(self, function: str, argument: object, report: Callable[[object], None]) -> object:
        """Run ``function``, a ``"module:name"``, on ``argument`` in a worker and return its result.

        Raises:
            WorkerDiedError: The worker died (T0320).
            OpError: It made no progress in time (T0321).
            Exception: What the function raised.
        """
        worker = self._idle.get()
        try:
            worker = worker or self._start()
            word, content = worker.ask((function, argument), report, self._timeout_s)
        except BaseException:
            # Where a call was broken off, an answer may still be on its way: such a worker cannot be used.
            if worker is not None:
                self._stop(worker)
            self._idle.put(None)
            raise
        self._idle.put(worker)
        if word == "error":
            raise content
        return content

    def close(self) -> None:
        """Stop every worker at once; whatever they had not committed is lost."""
        with self._lock:
            self._is_closed = True
            for worker in self._started:
                worker.kill()
            self._started.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> _Worker:
        with self._lock:
            if self._is_closed:
                raise OpError.of("T0320", "the pool of worker processes is closed")
            worker = _Worker(self._timeout_s)
            self._started.add(worker)
            return worker

    def _stop(self, worker: _Worker) -> None:
        worker.kill()
        with self._lock:
            self._started.discard(worker)


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, timeout_s: float) -> None:
        self._connection, theirs = Pipe()
        environment = dict.fromkeys(_THREADS, "1") | dict(os.environ)
        # -P: what lies in the working directory must not be imported in place of a library.
        command = [sys.executable, "-P", "-m", "taskloom.pipeline.host.worker"]
        command += [str(theirs.fileno()), str(2 * timeout_s)]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the pool's owner, who decides what it means
            )

    def ask(
        self, call: tuple[str, object], report: Callable[[object], None], timeout_s: float
    ) -> tuple[str, Any]:
        """Send ``call`` and return the answer, reporting progress until it comes."""
        try:
            self._connection.send(call)
            while True:
                word, content = self._receive(timeout_s)
                if word != "progress":
                    return word, content
                report(content)
        except (EOFError, ConnectionError) as error:
            code = self._process.wait()
            cause = f"signal {-code}" if code < 0 else f"exit code {code}"
            help_ = (
                "a decoder crashed on a row, or memory ran out: take the row out, or give fewer workers\n"
                "nothing committed is lost: build again"
            )
            raise WorkerDiedError.of("T0320", f"a worker process died ({cause})", help_) from error

    def kill(self) -> None:
        # The pipe is left to whoever waits at it: that thread sees its end.
        self._process.kill()
        self._process.wait()

    def _receive(self, timeout_s: float) -> tuple[str, Any]:
        connection: Connection = self._connection
        if connection.poll(timeout_s):
            return connection.recv()
        message = f"a worker process made no progress for {timeout_s:g} s and was stopped"
        help_ = (
            "a decoder hangs on a row: take it out; or raise timeout_s if the work is truly that slow\n"
            "nothing committed is lost: build again"
        )
        raise OpError.of("T0321", message, help_)
