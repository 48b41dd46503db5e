"""Notes on the memory behind tensors, for as long as it is there.

A view is its base to them, and so is what autograd hands out of what it has saved: torch makes new tensors
there, and no new storage.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class StorageNotes(Generic[T]):
    """What is noted, by storage.

    Attributes:
        gone: Takes the note of a storage that is given back.
    """

    gone: Callable[[T], object] = lambda _: None
    _notes: dict[int, tuple[Any, T]] = field(default_factory=dict[int, tuple[Any, T]])

    def get(self, tensor: Tensor) -> T | None:
        """Return what is noted of the memory of ``tensor``."""
        found = self._notes.get(id(tensor.untyped_storage()))
        return None if found is None else found[1]

    def put(self, tensor: Tensor, note: T) -> None:
        """Note something of the memory of ``tensor``, instead of what was noted before."""
        storage = tensor.untyped_storage()
        key = id(storage)
        self._notes[key] = (weakref.ref(storage, partial(self._drop, key)), note)

    def _drop(self, key: int, _: object) -> None:
        self.gone(self._notes.pop(key)[1])
