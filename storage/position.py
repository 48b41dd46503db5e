"""How far a stream has come with each of its tasks.

A task's turns are taken in ascending order. When the mixture is changed in the middle of a window, some
turns of a task have been seen and some before them have not: those are *left*, and come before any new
one. So no change loses a sample or repeats one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from .mix import settle
from .tile import Ints

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Position:
    """A position between two windows.

    Attributes:
        counts: The first turn of each task that no window has had, shape ``(K,)``.
        owed: What each task is owed, in `mix.UNIT`, shape ``(K,)``.
        left: The turns of each task before its count that were left, ascending.
    """

    counts: Ints
    owed: Ints
    left: tuple[Ints, ...]

    @classmethod
    def start(cls, num_tasks: int) -> Self:
        """Return the position before the first sample."""
        zeros = np.zeros(num_tasks, np.int64)
        return cls(zeros, zeros, (np.empty(0, np.int64),) * num_tasks)

    def take(self, numbers: Ints) -> tuple[Ints, ...]:
        """Return the next turns of each task, as many as ``numbers`` says, shape ``(K,)``."""
        return tuple(
            _next_turns(int(count), left, number)
            for count, left, number in zip(self.counts, self.left, numbers.tolist(), strict=True)
        )

    def after(self, tasks: Ints, shares: Ints) -> Position:
        """Return the position after samples of ``tasks``, shape ``(N,)``, were drawn at ``shares``."""
        numbers = np.bincount(tasks, minlength=len(self.counts))
        sizes = np.array([len(left) for left in self.left], np.int64)
        return Position(
            counts=self.counts + (numbers - sizes).clip(min=0),
            owed=settle(self.owed, shares, tasks),
            left=tuple(each[n:] for each, n in zip(self.left, numbers.tolist(), strict=True)),
        )


def pass_over(count: int, left: Ints, seen: Mask) -> tuple[int, Ints]:
    """Return the count of one task and the turns that are left, after some were seen out of order.

    Args:
        count: Its first turn that no window had had before.
        left: The turns that were left before.
        seen: Which of the next turns have been seen, shape ``(N,)``.
    """
    turns = _next_turns(count, left, len(seen))
    return count + max(len(seen) - len(left), 0), np.concatenate([turns[~seen], left[len(seen) :]])


def split_seen(tasks: Ints, seen: Mask, num_tasks: int) -> tuple[Mask, ...]:
    """Return for each task which of its samples have been seen, of ``tasks`` and ``seen``, shape ``(N,)``."""
    return tuple(seen[tasks == task] for task in range(num_tasks))


def merge_seen(packs: Sequence[Ints], num_samples: int) -> Mask:
    """Return which samples of a window are in ``packs``, shape ``(num_samples,)``."""
    seen = np.zeros(num_samples, np.bool_)
    for samples in packs:
        seen[samples] = True
    return seen


def _next_turns(count: int, left: Ints, number: int) -> Ints:
    return np.concatenate([left[:number], count + np.arange(max(number - len(left), 0))])


__all__ = ["Mask", "Position", "merge_seen", "pass_over", "split_seen"]
