"""Worker processes on this machine, for ops that hold the GIL or parse bytes from outside."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from ..graph.errors import OpError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS")


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
        self._started: set[_Worker] = set()
        for _ in range(num_workers):
            self._idle.put(None)

    def call(self, function: str, argument: object, report: Callable[[object], None]) -> object:
        """Run ``function``, a ``"module:name"``, on ``argument`` in a worker and return its result.

        Raises:
            OpError: The worker died or made no progress in time; its slot is free again.
            Exception: What the function raised.
        """
        worker = self._idle.get()
        try:
            if worker is None:
                worker = _Worker()
                self._started.add(worker)
            return worker.call(function, argument, report, self._timeout_s)
        except (OpError, KeyboardInterrupt):
            if worker is not None and not worker.is_alive:
                self._started.discard(worker)
                worker = None
            raise
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Stop every worker at once; whatever they had not committed is lost."""
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


class _Worker:
    """One process and the pipe to it."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        environment = dict.fromkeys(_THREADS, "1") | dict(os.environ)
        # -P: what lies in the working directory must not be imported in place of a library.
        command = [sys.executable, "-P", "-m", "taskloom.pipeline.worker", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(
        self,
        function: str,
        argument: object,
        report: Callable[[object], None],
        timeout_s: float,
    ) -> object:
        try:
            self._connection.send((function, argument))
            while True:
                word, content = self._receive(timeout_s)
                if word == "done":
                    return content
                if word == "error":
                    raise content
                report(content)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            code = self._process.wait()
            cause = f"signal {-code}" if code < 0 else f"exit code {code}"
            help_ = "a decoder crashed, or memory ran out; nothing committed is lost: build again"
            raise OpError.of("T0306", f"a worker process died ({cause})", help_) from error

    def _receive(self, timeout_s: float) -> tuple[str, Any]:
        connection: Connection = self._connection
        if not connection.poll(timeout_s):
            self.kill()
            message = f"a worker process made no progress for {timeout_s:g} s and was stopped"
            raise OpError.of("T0307", message, "raise timeout_s if the work is truly that slow")
        return connection.recv()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._connection.close()
