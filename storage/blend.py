"""The shares of tasks as a function of the step, whatever rule they were made by.

A *blend* gives each of its parts a share; a part is a task, or another blend, whose own parts divide its
share among them. Shares hold from step to step or run in straight lines from one *knot* to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import numpy as np

from ..graph.errors import LoaderError

# Steps of a run whose shares are looked at, where they change.
_LOOKS: Final = 64

Part: TypeAlias = "str | Blend"


@dataclass(frozen=True, slots=True)
class Blend:
    """Relative shares of samples.

    Attributes:
        parts: Names of tasks, and blends; no task is in it twice.
        knots: Steps, ascending, from which on other shares hold.
        shares: For each knot the relative share of every part, not negative.
        is_linear: Whether shares run in straight lines between two knots, and do not jump at them.
    """

    parts: tuple[Part, ...]
    knots: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
    is_linear: bool = False

    def __post_init__(self) -> None:
        for told in self._wrong():
            raise LoaderError.of("T0606", f"tasks cannot be mixed: {told}")

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> Self:
        """Return the blend of tasks whose shares never change."""
        return cls(tuple(weights), (0,), (tuple(map(float, weights.values())),))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, those of blends in their place."""
        return tuple(
            name
            for part in self.parts
            for name in ([part] if isinstance(part, str) else part.tasks)
        )

    def at(self, step: float) -> dict[str, float]:
        """Return the share of every task at ``step``; they add up to 1."""
        rows = [[share / math.fsum(row) for share in row] for row in self.shares]
        if self.is_linear:
            now = [float(np.interp(step, self.knots, column)) for column in zip(*rows, strict=True)]
        else:
            now = rows[max(sum(knot <= step for knot in self.knots) - 1, 0)]
        found: dict[str, float] = {}
        for part, share in zip(self.parts, now, strict=True):
            inner = {part: 1.0} if isinstance(part, str) else part.at(step)
            found |= {name: share * one for name, one in inner.items()}
        return found

    def mean(self, steps: range) -> dict[str, float]:
        """Return the share of every task over ``steps``; about, where there are many."""
        looks: list[float] = list(steps)
        if len(steps) > _LOOKS:
            looks = np.linspace(steps.start, steps.stop, _LOOKS, endpoint=False).tolist()
        found = [self.at(look) for look in (looks if self.all_knots() != [0] else looks[:1])]
        return {name: math.fsum(each[name] for each in found) / len(found) for name in self.tasks}

    def ever(self) -> dict[str, float]:
        """Return the largest share that each task has at any knot."""
        shares = [self.at(knot) for knot in self.all_knots()]
        return {name: max(each[name] for each in shares) for name in self.tasks}

    def all_knots(self) -> list[int]:
        """Return the knots of this blend and those inside it, ascending."""
        inner = [k for part in self.parts if isinstance(part, Blend) for k in part.all_knots()]
        return sorted({*self.knots, *inner})

    @property
    def is_linear_anywhere(self) -> bool:
        """Whether some shares run in straight lines, here or in a blend inside."""
        return self.is_linear or any(
            part.is_linear_anywhere for part in self.parts if isinstance(part, Blend)
        )

    def to_json(self) -> list[Any]:
        """Return all that it says, as data that JSON writes the same way each time."""
        parts = [part if isinstance(part, str) else part.to_json() for part in self.parts]
        return [parts, self.knots, self.shares, self.is_linear]

    def _wrong(self) -> Iterator[str]:
        if not self.parts or not self.knots or len(self.knots) != len(self.shares):
            yield "a blend needs parts, and shares for each of its knots"
        elif list(self.knots) != sorted(set(self.knots)):
            yield f"steps must ascend, got {', '.join(map(str, self.knots))}"
        for knot, row in zip(self.knots, self.shares, strict=False):
            if len(row) != len(self.parts):
                yield f"{len(row)} shares for {len(self.parts)} parts"
            elif not all(0 <= share < math.inf for share in row):
                yield f"weights must be finite and not negative, got {', '.join(map(str, row))}"
            elif not math.fsum(row):
                yield f"every weight is 0 at step {knot:,}"
        names = self.tasks
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f'"{twice[0]}" is in it twice'


__all__ = ["Blend"]
