"""Planning windows: how far each goes, and which pack each of its samples is in.

A window ends where its packs are full, so that none ends in a pack half empty, and the next window
begins with the sample after.

A window is a pure function of the documents' lengths, the settings, the shares, and the position before
it. So planning can start at any window, and a resumed run plans the same packs again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from .capacity import Capacity
from .mix import mix_tasks, to_shares
from .order import TaskOrder, permute
from .position import Position
from .template import Documents
from .tile import Ints
from .window import Samples, Window

MAX_PACKS: Final = 256
"""More packs than this make a window neither fuller nor better shuffled."""

_TOLERANCE: Final = 0.0005
_MARGIN: Final = 0.05
"""Of what the first window lacks of its bound, so much more is given up: most windows then fit at once."""
_HOPE: Final = 0.002
"""What other windows may hold more than the first, where tiles alone bind: they tell what is too much."""


class WindowPlanner:
    """Plans the windows of one mixture."""

    def __init__(
        self,
        documents: Sequence[Documents],
        capacity: Capacity,
        weights: Mapping[str, float],
        seed: int,
        window_size: int,
    ) -> None:
        """Prepare to plan.

        Args:
            documents: Those of each template, every one of which fits a pack; the templates of a task over
                the same rows.
            capacity: What a pack holds.
            weights: Relative share of samples of each task, in the first window and most others.
            seed: Decides every order.
            window_size: Most samples of a window. No window is longer than all tasks' rows
                together, so that small data is not repeated within one.
        """
        self._documents = tuple(documents)
        self._capacity = capacity
        self._seed = seed
        templates: dict[str, list[int]] = {}
        for number, each in enumerate(documents):
            templates.setdefault(each.template.task, []).append(number)
        self.tasks = tuple(templates)
        self._templates = [np.array(numbers) for numbers in templates.values()]
        self._orders = [
            TaskOrder(seed, task, len(documents[numbers[0]])) for task, numbers in templates.items()
        ]
        self._size = min(window_size, sum(order.num_rows for order in self._orders))
        # Found out once, since tiling and trying every window would cost more: what tiles allow at the shares
        # that most windows have, and which share of it is reached.
        self._usual_shares = self._to_shares(weights)
        _, samples = self._draw(Position.start(len(templates)), self._usual_shares)
        self._usual_bound = self._bound_fill(samples)
        self._share = self._find_share(samples)

    def plan(
        self,
        number: int,
        position: Position,
        weights: Mapping[str, float],
        max_packs: int = MAX_PACKS,
    ) -> Window:
        """Return window ``number``, which begins at ``position``.

        Args:
            number: How many windows precede it.
            position: Where it begins.
            weights: Relative share of samples of each task in it.
            max_packs: Packs that it has at most, at least 1.
        """
        shares = self._to_shares(weights)
        tasks, samples = self._draw(position, shares)
        load = samples.measure(self._capacity)
        total = load.cumsum(axis=1).max(axis=0)
        is_usual = np.array_equal(shares, self._usual_shares)
        bound = self._usual_bound if is_usual else self._bound_fill(samples)
        goal = bound * self._share
        num_packs = min(self._count_packs(total, goal), max_packs)
        num_samples = _last_within(total, num_packs * goal)
        cut = 0.0
        while True:
            tiling = samples.tile(num_samples, self._capacity)
            excess = tiling.least_packs - num_packs
            if excess <= 0:
                placement = tiling.place(num_packs)
                left = np.flatnonzero(placement.packs >= num_packs)
                if not len(left):
                    break
                # What is cut hardly ever is what did not fit: so each try cuts twice as much as the last.
                excess = cut = max(float(load[:, left].sum(axis=1).max()), 2 * cut)
            shorter = _last_within(total, total[num_samples - 1] - excess)
            num_samples = max(1, min(shorter, num_samples - 1))
        packs = samples.divide(placement)
        order = permute(len(packs), self._seed, "window", number)
        return Window(
            number=number,
            before=position,
            after=position.after(tasks[:num_samples], shares),
            tasks=tasks[:num_samples],
            packs=tuple(packs[index] for index in order),
        )

    def _to_shares(self, weights: Mapping[str, float]) -> Ints:
        return to_shares([weights[task] for task in self.tasks])

    def _bound_fill(self, samples: Samples) -> float:
        """Return how full packs are if their tiles are, given the documents' lengths."""
        total = float(samples.measure(self._capacity).sum(axis=1).max())
        least_packs = samples.tile(len(samples.rows), self._capacity).least_packs
        return total / max(least_packs, total) if total else 1.0

    def _find_share(self, samples: Samples) -> float:
        """Return about which share of that bound the first window, of ``samples``, reaches."""
        total = samples.measure(self._capacity).cumsum(axis=1).max(axis=0)
        bound = self._usual_bound
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
        if low >= 1 - _TOLERANCE:
            return 1 + _HOPE
        return max(low - max(_TOLERANCE, _MARGIN * (1 - low)), low / 2)

    def _count_packs(self, total: npt.NDArray[np.float64], goal: float) -> int:
        return min(max(1, int(total[-1] / goal)), MAX_PACKS)

    def _draw(self, position: Position, shares: Ints) -> tuple[Ints, Samples]:
        """Return the tasks of the next samples, and the samples; each task's templates take turns."""
        tasks = mix_tasks(position.owed, shares, self._size)
        template = np.empty(len(tasks), np.int64)
        which = np.empty(len(tasks), np.int64)
        passes = np.empty(len(tasks), np.int64)
        numbers = np.bincount(tasks, minlength=len(shares))
        for task, turns in enumerate(position.take(numbers)):
            where = np.flatnonzero(tasks == task)
            which[where], passes[where] = self._orders[task].find(turns)
            template[where] = self._templates[task][turns % len(self._templates[task])]
        drawn = [
            (which[mine], passes[mine])
            for number in range(len(self._documents))
            for mine in [np.flatnonzero(template == number)]
        ]
        return tasks, Samples.of(self._documents, template, drawn, tuple(self._capacity.tensors))


def _last_within(total: npt.NDArray[np.float64], limit: float) -> int:
    return max(1, int(np.searchsorted(total, limit, side="right")))


__all__ = ["MAX_PACKS", "WindowPlanner"]
