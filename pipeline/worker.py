"""A worker process: computes what its pool asks for, one call at a time.

Started as ``python -m taskloom.pipeline.worker FD``, so it never imports the script that started the build: a
script needs no main guard, and a decoder that crashes on a stranger's bytes takes no build with it.

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
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Report = Callable[[object], None]
"""Tells the caller how far a call has come."""


def resolve(function: str) -> Callable[[Any, Report], object]:
    """Return the function that ``"module:name"`` names."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def serve(connection: Connection) -> None:
    """Answer calls until the other end closes."""

    def report(progress: object) -> None:
        connection.send(("progress", progress))

    while True:
        try:
            function, argument = connection.recv()
        except EOFError:
            return
        try:
            answer = ("done", resolve(function)(argument, report))
        except Exception as error:  # noqa: BLE001 - every error is the caller's to see
            answer = ("error", portable(error))
        connection.send(answer)


def portable(error: Exception) -> Exception:
    """Return ``error`` if it survives the way to another process, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a foreign error may refuse in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def main() -> None:
    """Serve the pipe whose file descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool decides what an interrupt means
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
