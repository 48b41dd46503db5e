"""Prefetching: the next items are made in a background thread while this one is used.

One thread, a bounded number of items ahead. What the thread raises is raised where the items are
used, with the thread's traceback. Closing stops the thread after the item it is at. A thread that makes nothing
for too long is given up: what it is at, and where in the code, is raised instead.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread
from types import TracebackType
from typing import Final, Generic, NamedTuple, Self, TypeVar

from ..graph.errors import LoaderError

T = TypeVar("T")

_LONGEST_WAIT_S: Final = 1e6  # a wait without end could not be interrupted on every platform
_FRAMES: Final = 3
"""Places in the code that are told of a thread that is stuck: the innermost."""


class _Made(NamedTuple, Generic[T]):
    item: T


class _Ended(NamedTuple):
    error: BaseException | None


class Prefetcher(Generic[T]):
    """An iterator over ``items`` that stays up to ``depth`` of them ahead.

    Close it, or use it in a ``with`` block; an iterator that is merely dropped leaves its thread
    asleep until the process ends.
    """

    def __init__(
        self,
        items: Iterator[T],
        depth: int,
        *,
        patience_s: float = math.inf,
        tell: Callable[[], str] = str,
    ) -> None:
        """Start the thread.

        Args:
            items: Made one after the other, in the thread.
            depth: How many are made ahead.
            patience_s: How long to wait for one before the thread is given up.
            tell: Returns what the thread is at, in a few words; empty if nobody knows.
        """
        self._patience_s = patience_s
        self._tell = tell
        self._is_stuck = False
        # A semaphore in front of an unbounded queue rather than a bounded queue: closing can then
        # wake the thread at once, and Ctrl-C can interrupt the wait for an item.
        self._made: SimpleQueue[_Made[T] | _Ended] = SimpleQueue()
        self._free = Semaphore(depth)
        self._is_closed = Event()
        # Daemon, so that a process which forgets to close can still end.
        self._thread = Thread(
            target=_produce,
            args=(items, self._made, self._free, self._is_closed),
            name="taskloom-prefetch",
            daemon=True,
        )
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._is_closed.is_set():
            raise StopIteration
        result = self._wait()
        if isinstance(result, _Made):
            self._free.release()
            return result.item
        self.close()
        if result.error is not None:
            raise result.error
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and wait until it has ended; one that is stuck is left alone."""
        self._is_closed.set()
        self._free.release()
        if not self._is_stuck:
            self._thread.join()

    def _wait(self) -> _Made[T] | _Ended:
        """Return what the thread has made.

        Raises:
            LoaderError: It has made nothing for too long (T0620).
        """
        try:
            return self._made.get(timeout=min(self._patience_s, _LONGEST_WAIT_S))
        except Empty:
            self._is_stuck = True
            told = self._tell() or "the next packs"
            message = f"the loader has been at {told} for more than {self._patience_s:g} s"
            raise LoaderError.of("T0620", message, _tell_place(self._thread)) from None


def _tell_place(thread: Thread) -> str:
    """Return where in the code ``thread`` is, and what to do."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - the documented way
    stack = traceback.extract_stack(frame)[-_FRAMES:] if frame else []
    places = [f"{each.filename}:{each.lineno} in {each.name}" for each in reversed(stack)]
    advice = "raise loader_timeout_s if it only needs longer; otherwise mend what it waits for"
    return "\n".join([*(f"it is at {place}" for place in places), advice])


def _produce(
    items: Iterator[T], made: SimpleQueue[_Made[T] | _Ended], free: Semaphore, is_closed: Event
) -> None:
    error = None
    try:
        while free.acquire() and not is_closed.is_set():
            made.put(_Made(next(items)))
    except StopIteration:
        pass
    except BaseException as raised:  # noqa: BLE001 - handed over, to be raised where it is seen
        error = raised
    made.put(_Ended(error))


__all__ = ["Prefetcher"]
