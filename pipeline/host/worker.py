"""A worker process: computes what its pool asks for, one call at a time.

Started as ``python -m taskloom.pipeline.host.worker FD SECONDS``, so it never imports the script that started
the build: a script needs no main guard, and a decoder that crashes on a stranger's bytes takes no build with
it.

Messages are pickles over a pipe that only the pool holds. A call is ``(function, argument)``, the function a
``"module:name"``; answers are ``("progress", …)`` any number of times, then ``("done", result)`` or
``("error", exception)``.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ...graph.errors import TaskloomError

Report = Callable[[object], None]
"""Tells the caller how far a call has come."""


def resolve(function: str) -> Callable[..., Any]:
    """Return the function that ``"module:name"`` names."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def serve(connection: Connection, stop_after_s: float) -> None:
    """Answer calls until the other end closes.

    Args:
        connection: The pipe.
        stop_after_s: Seconds without a sign of progress after which the process ends itself.
    """

    def report(progress: object) -> None:
        connection.send(("progress", progress))
        _expect_progress(stop_after_s)

    while True:
        _expect_progress(0)
        message = connection.recv_bytes()
        _expect_progress(stop_after_s)
        try:
            function, argument = pickle.loads(message)
            answer = ("done", resolve(function)(argument, report))
        except BrokenPipeError:
            raise  # nobody is left to be told
        except Exception as error:  # noqa: BLE001 - every error is the caller's to see
            answer = ("error", portable(error))
        connection.send(answer)


def portable(error: Exception) -> Exception:
    """Return ``error`` if it survives the way to another process, else one that says the same.

    Errors that nobody foresaw carry along where they were raised.
    """
    if not isinstance(error, TaskloomError):
        error.add_note(f"in a worker process:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a foreign error may refuse in any way
        notes: list[str] = getattr(error, "__notes__", [])
        return RuntimeError("\n".join([f"{type(error).__name__}: {error}", *notes]))
    return error


def main() -> None:
    """Serve the pipe whose file descriptor is the first argument."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        serve(Connection(int(sys.argv[1])), float(sys.argv[2]))
    except (EOFError, ConnectionError):
        return  # the pool is gone, and with it the reason to go on


def _expect_progress(within_s: float) -> None:
    """End this process unless it is called again ``within_s``; 0 waits for ever.

    The pool kills a worker that hangs; this is for one whose pool was killed itself. The operating system
    acts on it, whatever native code does.
    """
    signal.setitimer(signal.ITIMER_REAL, within_s)


if __name__ == "__main__":
    main()
