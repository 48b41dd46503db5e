"""Interrupts that wait for a good moment: a step is taken whole, or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Generator[Callable[[], bool]]:
    """Note Ctrl-C, or the ``SIGTERM`` of a cluster, instead of ending; a Ctrl-C after that ends at once.

    Yields a function that says whether there was one. In threads other than the main one, where signals
    never arrive, and in processes that ignore them, it says no; nor is ``SIGTERM`` taken from who handles it.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if handlers[signal.SIGINT] in (signal.SIG_IGN, None):
        del handlers[signal.SIGINT]
    if handlers[signal.SIGTERM] is not signal.SIG_DFL:
        del handlers[signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    seen = threading.Event()

    def note(number: int, _frame: FrameType | None) -> None:
        # Who ends a process may tell it twice, and not in order to hurry it.
        if seen.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.set()

    for number in handlers:
        signal.signal(number, note)
    try:
        yield seen.is_set
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
