"""The stream as steps of packs, from any position on, before anything is filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .blend import Blend
from .capacity import Capacity
from .position import Position
from .template import Documents
from .window import PackPlan, Window
from .window_planner import MAX_PACKS, WindowPlanner


class Place(NamedTuple):
    """A place between two steps.

    Attributes:
        step: Steps taken.
        window: The window that it is in, or at the end of.
        pack: Packs of the window that are in the steps taken.
    """

    step: int
    window: Window
    pack: int


class StepPlanner:
    """Plans the steps of one mixture.

    Shares are those of the step where a window begins, or of its middle where they run in straight lines.
    No window goes beyond a knot, so that shares that jump do so at the step that says so.
    """

    def __init__(
        self,
        documents: Sequence[Documents],
        capacity: Capacity,
        blend: Blend,
        *,
        seed: int,
        packs_per_step: int,
        window_size: int,
        first_step: int,
    ) -> None:
        """Prepare to plan.

        Args:
            documents: Those of each template, every one of which fits a pack.
            capacity: What a pack holds.
            blend: Shares of the tasks.
            seed: Decides every order.
            packs_per_step: Packs in one step.
            window_size: Most samples of a window.
            first_step: The step at which the segment of this mixture began.
        """
        self._blend = blend
        self._packs_per_step = packs_per_step
        self._knots = blend.all_knots()
        weights = blend.at(first_step)
        self._planner = WindowPlanner(documents, capacity, weights, seed, window_size)
        self.first_window = self._planner.plan(0, Position.start(len(self._planner.tasks)), weights)

    def plan(
        self, position: Position, *, step: int, window: int, pack: int
    ) -> Iterator[tuple[list[PackPlan], Place]]:
        """Yield the packs of each step, and the place after it.

        Args:
            position: Where the window begins.
            step: Steps taken.
            window: Number of the window.
            pack: Packs of the window that are in the steps taken.
        """
        plans: list[PackPlan] = []
        num_before = step * self._packs_per_step - pack
        while True:
            planned = self._plan_window(window, position, num_before)
            for number, plan in enumerate(planned.packs[pack:], start=pack + 1):
                plans.append(plan)
                if len(plans) == self._packs_per_step:
                    step += 1
                    yield plans, Place(step, planned, number)
                    plans = []
            position, window, pack = planned.after, window + 1, 0
            num_before += len(planned.packs)

    def _plan_window(self, number: int, position: Position, num_before: int) -> Window:
        """Return the window before which there are ``num_before`` packs in all."""
        size = self._packs_per_step
        coming = (knot * size - num_before for knot in self._knots if knot * size > num_before)
        max_packs = min(next(coming, MAX_PACKS), MAX_PACKS)
        middle = num_before + min(len(self.first_window.packs), max_packs) / 2
        at = middle if self._blend.is_linear_anywhere else num_before
        return self._planner.plan(number, position, self._blend.at(at / size), max_packs)


__all__ = ["Place", "StepPlanner"]
