"""Which task comes next: the one that is furthest behind its share.

Shares are whole numbers of a `UNIT`, and so is what a task is *owed*: its share of all samples drawn, less
those drawn of it. They add up without rounding, so that a stream is the same on every machine and keeps its
shares however long it is. Shares may differ from one call to the next; what is owed goes on.

Why not random tasks: drawing tasks by chance strays from the weights as the square root of the
number of samples. Here no task is ever a whole sample away from its share.

Source: R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Final

import numpy as np
import numpy.typing as npt

from .tile import Ints

UNIT: Final = 1 << 31
"""The share of a task that is all there is; what is owed of one whole sample."""


def to_shares(weights: Sequence[float] | npt.NDArray[np.float64]) -> Ints:
    """Return shares in the ratio of ``weights``, shape ``(K,)``: whole numbers that add up to `UNIT`.

    A weight of 0 gives a share of 0, and any other at least 1.
    """
    values = np.asarray(weights, np.float64)
    exact = values / values.sum() * UNIT
    shares = np.maximum(np.floor(exact).astype(np.int64), values > 0)
    # The largest remainders take what is left over; the largest shares bear what is too much.
    missing = UNIT - int(shares.sum())
    if missing > 0:
        shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    else:
        shares[shares.argmax()] += missing
    return shares


def mix_tasks(owed: Ints, shares: Ints, num_samples: int) -> Ints:
    """Return the tasks of the next samples, and so never leave a task a sample behind or ahead.

    With ``d = 1 / (2 K - 2)`` for ``K`` tasks, the ``j``-th next sample of a task is *released* when the task
    is owed ``j + d`` samples and *due* when it is owed ``j + 1 - d``; the earliest due of the released comes
    next. Then no task is ever owed more than ``1 - d`` samples, nor ahead by more.

    Args:
        owed: What each task is owed before, in `UNIT`; zeros at first; shape ``(K,)``.
        shares: From `to_shares`, shape ``(K,)``.
        num_samples: How many to draw.

    Returns:
        Task numbers, shape ``(num_samples,)``.
    """
    slack = UNIT // max(2 * len(shares) - 2, 1)
    drawn = np.flatnonzero(shares)
    if len(drawn) == 1:
        return np.repeat(drawn, num_samples)
    their_owed, their_shares = owed[drawn], shares[drawn]
    # Two samples more than can be released, so that no step is left without a task.
    num_jobs = np.maximum((their_owed + num_samples * their_shares - slack) // UNIT + 3, 2)
    which = np.repeat(np.arange(len(drawn)), num_jobs)
    job = np.arange(len(which)) - np.repeat(np.cumsum(num_jobs) - num_jobs, num_jobs)
    ahead = job * UNIT - their_owed[which]
    release = -((-ahead - slack) // their_shares[which])
    due = (ahead + UNIT - slack) / their_shares[which]
    order = np.lexsort((which, due))
    return drawn[which[order]][_earliest_due_first(release[order], num_samples)]


def settle(owed: Ints, shares: Ints, tasks: Ints) -> Ints:
    """Return what each task is owed after ``tasks`` were drawn at ``shares``."""
    counts = np.bincount(tasks, minlength=len(owed))
    return owed + len(tasks) * shares - counts * UNIT


def _earliest_due_first(release: Ints, num_samples: int) -> Ints:
    """Return which job runs at each step; jobs are numbered by due time."""
    arrivals = np.argsort(release, kind="stable")
    jobs, times = arrivals.tolist(), [*release[arrivals].tolist(), math.inf]
    ready: list[int] = []
    picked: list[int] = []
    arrived = 0
    for now in range(1, num_samples + 1):
        while times[arrived] <= now or not ready:
            heappush(ready, jobs[arrived])
            arrived += 1
        picked.append(heappop(ready))
    return np.array(picked, np.int64)


__all__ = ["UNIT", "mix_tasks", "settle", "to_shares"]
