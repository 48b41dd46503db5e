"""A watch on the loss: it tells once that a run diverges.

A run *diverges* where three lines of its log in a row have a loss above one and a half times the median of the
twenty lines before them, plus 0.5. A loss that is hard to learn wanders by less, and one that comes back within
a line or two was a bad batch. Where fewer than five lines are before them, it is three times their least loss:
a run begins at about what guessing costs, and no worse.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

TIMES: Final = 1.5
PLUS: Final = 0.5
"""Nats, so that a loss near 0 may double."""

IN_A_ROW: Final = 3
REMEMBERED: Final = 20
FEWEST: Final = 5
"""Lines whose median says what is usual."""
EARLY_TIMES: Final = 3.0


@dataclass(slots=True)
class LossWatch:
    """Looks at the losses of lines as they are written.

    Attributes:
        good_step: The step of the last line whose loss was not high; 0 while there is none.
    """

    good_step: int = 0
    _usual: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _high: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    _is_told: bool = False

    @classmethod
    def over(cls, lines: Iterable[Mapping[str, Any]]) -> LossWatch:
        """Return a watch that has looked at ``lines`` of a log."""
        watch = cls()
        for line in lines:
            watch.look(line["step"], line.get("loss"))
        return watch

    @property
    def is_alert(self) -> bool:
        """Whether the last losses were high, and that has not been told yet."""
        return bool(self._high) and not self._is_told

    def look(self, step: int, loss: float | None) -> int | None:
        """Return the step at which the loss began to be high, if it is now known to diverge; once.

        Args:
            step: Step of the line.
            loss: Its loss; None where nothing was learned.
        """
        if loss is None or self._is_told:
            return None
        if loss <= self._limit:
            self._usual += [*(high for _, high in self._high), loss]
            self._high = []
            self.good_step = step
            return None
        self._high.append((step, loss))
        self._is_told = len(self._high) == IN_A_ROW
        return self._high[0][0] if self._is_told else None

    @property
    def _limit(self) -> float:
        """The loss above which one is high."""
        if not self._usual:
            return math.inf
        if len(self._usual) < FEWEST:
            return EARLY_TIMES * min(self._usual) + PLUS
        return TIMES * median(self._usual) + PLUS
