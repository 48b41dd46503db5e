"""Prefetching: the next items are made in a background thread while this one is used.

One thread, a bounded number of items ahead. What the thread raises is raised where the items are
used, with the thread's traceback. Closing stops the thread after the item it is at.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")


class _Made(NamedTuple, Generic[T]):
    item: T


class _Ended(NamedTuple):
    error: BaseException | None


class Prefetcher(Generic[T]):
    """An iterator over ``items`` that stays up to ``depth`` of them ahead.

    Close it, or use it in a ``with`` block; an iterator that is merely dropped leaves its thread
    asleep until the process ends.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
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
        result = self._made.get()
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
        """Stop the thread and wait until it has ended."""
        self._is_closed.set()
        self._free.release()
        self._thread.join()


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
