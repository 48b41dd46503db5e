"""Interrupts that wait for a good moment: a step is taken whole, or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Generator[Callable[[], bool]]:
    """Note the first Ctrl-C instead of raising; a second one raises at once.

    Yields a function that says whether there was one. In threads other than the main one, where signals
    never arrive, and in processes that ignore them, it says no.
    """
    previous = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or previous in (signal.SIG_IGN, None):
        yield lambda: False
        return
    seen = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        if seen.is_set():
            raise KeyboardInterrupt
        seen.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
