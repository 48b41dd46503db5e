"""Windows: the stream of samples, a few thousand at a time, made into full packs.

The stream of a mixture is endless: tasks mixed by weight, each task's rows in the order of its passes.
A *window* is the next stretch of it, planned as a whole. It ends where its packs are full, so that no
window ends in a pack half empty, and the next window begins with the sample after. Its packs are
shuffled.

A window is a pure function of the documents' lengths, the settings, and the counts of samples drawn
before it. So planning can start at any window, and a resumed run plans the same packs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .capacity import Capacity, measure_load
from .order import TaskOrder, mix_tasks, permute
from .pack import Placement, Tiling, tile_documents
from .template import Documents
from .tile import Ints

# More packs than this make a window neither fuller nor better shuffled.
_MAX_PACKS = 256
_TOLERANCE = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlan:
    """The documents of one pack in the order of their positions; arrays of shape ``(D,)``.

    Attributes:
        tasks: Number of each document's template.
        rows: Its global row.
        passes: The pass of its task in which it is seen, from 0.
        source_starts: Position of its first source id in the pack.
        source_lengths: Its source positions.
        target_starts: Position of its first target id in the pack.
        target_lengths: Its target positions.
        tensors: Its tensors in each lane, in the order of the capacity; shape ``(lanes, D)``.
    """

    tasks: Ints
    rows: Ints
    passes: Ints
    source_starts: Ints
    source_lengths: Ints
    target_starts: Ints
    target_lengths: Ints
    tensors: Ints

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of the stream, planned.

    Attributes:
        number: How many windows precede it.
        counts: Samples of each task drawn before it, shape ``(K,)``.
        next_counts: Samples of each task drawn when it ends, shape ``(K,)``.
        packs: Its packs, shuffled.
    """

    number: int
    counts: Ints
    next_counts: Ints
    packs: tuple[PackPlan, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples in the order of the stream, as arrays over N samples."""

    tasks: Ints
    rows: Ints
    passes: Ints
    source: Ints
    target: Ints
    tensors: Ints

    @classmethod
    def of(
        cls,
        documents: Sequence[Documents],
        tasks: Ints,
        drawn: Sequence[tuple[Ints, Ints]],
        lanes: Sequence[str],
    ) -> Samples:
        """Return the samples of ``tasks``, shape ``(N,)``.

        Args:
            documents: Those of each task.
            tasks: Number of each sample's task.
            drawn: For each task, which of its documents come, in order, and in which pass each.
            lanes: Lanes of the pack, in order.
        """
        rows, passes, source, target = (np.empty(len(tasks), np.int64) for _ in range(4))
        tensors = np.zeros((len(lanes), len(tasks)), np.int64)
        for task, (each, (which, their_passes)) in enumerate(zip(documents, drawn, strict=True)):
            where = np.flatnonzero(tasks == task)
            rows[where] = each.rows[which]
            passes[where] = their_passes
            source[where] = each.source_lengths[which]
            target[where] = each.target_lengths[which]
            for lane, numbers in each.tensors.items():
                tensors[lanes.index(lane), where] = numbers[which]
        return cls(tasks, rows, passes, source, target, tensors)

    def slice(self, start: int, stop: int) -> Samples:
        """Return samples ``start`` to ``stop``."""
        return Samples(
            tasks=self.tasks[start:stop],
            rows=self.rows[start:stop],
            passes=self.passes[start:stop],
            source=self.source[start:stop],
            target=self.target[start:stop],
            tensors=self.tensors[:, start:stop],
        )

    def measure(self, capacity: Capacity) -> npt.NDArray[np.float64]:
        """Return how much of a pack each takes, one row per capacity, shape ``(2 + lanes, N)``."""
        return measure_load(self.source, self.target, self.tensors, capacity)

    def tile(self, num_samples: int, capacity: Capacity) -> Tiling:
        """Give tiles to the first ``num_samples``."""
        source, target = self.source[:num_samples], self.target[:num_samples]
        return tile_documents(source, target, self.tensors[:, :num_samples], capacity)

    def divide(self, placement: Placement) -> tuple[PackPlan, ...]:
        """Return the packs of ``placement``, which is of the first samples."""
        order = placement.order
        arrays = {
            "tasks": self.tasks[order],
            "rows": self.rows[order],
            "passes": self.passes[order],
            "source_starts": placement.source_starts[order],
            "source_lengths": self.source[order],
            "target_starts": placement.target_starts[order],
            "target_lengths": self.target[order],
            "tensors": self.tensors[:, order],
        }
        cuts = np.searchsorted(placement.packs[order], np.arange(placement.num_packs + 1)).tolist()
        return tuple(
            PackPlan(**{name: array[..., start:stop] for name, array in arrays.items()})
            for start, stop in pairwise(cuts)
            if start < stop
        )


class WindowPlanner:
    """Plans the windows of one mixture."""

    def __init__(
        self,
        documents: Sequence[Documents],
        capacity: Capacity,
        weights: Sequence[float],
        seed: int,
        window_size: int,
    ) -> None:
        """Prepare to plan.

        Args:
            documents: Those of each template, every one of which fits a pack.
            capacity: What a pack holds.
            weights: Relative share of samples of each template, positive.
            seed: Decides every order.
            window_size: Most samples of a window. No window is longer than all tasks' rows
                together, so that small data is not repeated within one.
        """
        self._documents = tuple(documents)
        self._capacity = capacity
        self._weights = np.array(weights, np.float64)
        self._seed = seed
        num_rows = sum(len(each) for each in documents if not each.template.number)
        self._size = min(window_size, num_rows)
        self._orders = [
            TaskOrder(seed, t.task, len(d), number=t.number, num_templates=t.num_templates)
            for d in documents
            for t in [d.template]
        ]
        # Of what the tiles allow; found out once, since trying every window would cost more.
        self._share = self._find_share()

    def plan(self, number: int, counts: Ints) -> Window:
        """Return window ``number``, which begins after ``counts`` samples of each task."""
        samples = self._draw(counts)
        load = samples.measure(self._capacity)
        total = load.cumsum(axis=1).max(axis=0)
        goal = self._bound_fill(samples, total) * self._share
        num_packs = self._count_packs(total, goal)
        num_samples = _last_within(total, num_packs * goal)
        while True:
            tiling = samples.tile(num_samples, self._capacity)
            excess = tiling.least_packs - num_packs
            if excess <= 0:
                placement = tiling.place(num_packs)
                left = np.flatnonzero(placement.packs >= num_packs)
                if not len(left):
                    break
                excess = load[:, left].sum(axis=1).max()
            shorter = _last_within(total, total[num_samples - 1] - excess)
            num_samples = max(1, min(shorter, num_samples - 1))
        packs = samples.divide(placement)
        order = permute(len(packs), self._seed, "window", number)
        drawn = np.bincount(samples.tasks[:num_samples], minlength=len(counts))
        return Window(
            number=number,
            counts=counts,
            next_counts=counts + drawn,
            packs=tuple(packs[index] for index in order),
        )

    def _bound_fill(self, samples: Samples, total: npt.NDArray[np.float64]) -> float:
        """Return how full packs are if their tiles are, given the documents' lengths."""
        if not total[-1]:
            return 1.0
        least_packs = samples.tile(len(total), self._capacity).least_packs
        return float(total[-1]) / max(least_packs, float(total[-1]))

    def _find_share(self) -> float:
        """Return which share of that bound the first window reaches before it does not fit."""
        samples = self._draw(np.zeros(len(self._documents), np.int64))
        total = samples.measure(self._capacity).cumsum(axis=1).max(axis=0)
        bound = self._bound_fill(samples, total)
        num_packs = self._count_packs(total, bound)
        low, high = 0.0, 1.0
        step = _TOLERANCE
        while high - low > _TOLERANCE:
            share = (low + high) / 2 if low else max(high - step, high / 2)
            num_samples = _last_within(total, num_packs * bound * share)
            tiling = samples.tile(num_samples, self._capacity)
            fits = (
                tiling.least_packs <= num_packs and tiling.place(num_packs).num_packs == num_packs
            )
            low, high = (share, high) if fits else (low, share)
            step *= 2
        self._size = min(self._size, int(_last_within(total, num_packs * bound) * 1.1) + 1)
        return max(low - _TOLERANCE, low / 2)

    def _count_packs(self, total: npt.NDArray[np.float64], goal: float) -> int:
        return min(max(1, int(total[-1] / goal)), _MAX_PACKS)

    def _draw(self, counts: Ints) -> Samples:
        tasks = mix_tasks(counts, self._weights, self._size).astype(np.int64)
        number = np.bincount(tasks, minlength=len(counts))
        drawn = [
            order.take(int(start), int(more))
            for order, start, more in zip(self._orders, counts, number, strict=True)
        ]
        return Samples.of(self._documents, tasks, drawn, tuple(self._capacity.tensors))


def _last_within(total: npt.NDArray[np.float64], limit: float) -> int:
    return max(1, int(np.searchsorted(total, limit, side="right")))


__all__ = ["PackPlan", "Samples", "Window", "WindowPlanner"]
