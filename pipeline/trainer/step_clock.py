"""A step clock: where the time of each step goes, and which steps were slow and why.

A step's time is all that passes from the end of the step before to its own. So what happens between two steps
belongs to the later one: its packs are waited for; the step before is told of, evaluated and saved. On a GPU
the ends are events on its stream, read when a line of the log has waited for them anyway: the host waits for
nothing more, and seconds are those of the GPU.

A *slow* step takes twice as long as the median of those before it, and 20 ms longer. Its reason is the part
that is farthest above what it usually takes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, NamedTuple

import torch

from .step_part import COMPILING, EVALUATING, LEARNING, TELLING, UNCOUNTED, WARMING

_TIMES: Final = 2.0
_LEAST_S: Final = 0.02
_REMEMBERED: Final = 100
"""Steps whose median is what a step usually takes."""
_FEWEST: Final = 5
_MOST_TOLD: Final = 20
"""Slow steps that a line of the log tells of."""


class Slow(NamedTuple):
    """A step that took long.

    Attributes:
        step: Its number.
        seconds: How long it took.
        why: The part that took longer than usual.
    """

    step: int
    seconds: float
    why: str


class Amount(NamedTuple):
    """What a step learned from, and what it had to compute."""

    tokens: int
    samples: int
    flops: float

    def plus(self, other: Amount) -> Amount:
        """Return both together."""
        return Amount(
            self.tokens + other.tokens, self.samples + other.samples, self.flops + other.flops
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Where the time of some steps went.

    Attributes:
        step_s: Seconds of each step.
        parts: Seconds of each part, of all steps together.
        slow: The slowest steps, in order.
        num_counted: Steps that a rate is told of: those that nobody prepared or watched.
        counted_s: Their seconds, evaluations left out.
        amount: What these steps learned from, and computed.
    """

    step_s: list[float]
    parts: Mapping[str, float]
    slow: list[Slow]
    num_counted: int
    counted_s: float
    amount: Amount

    def rate(self, amount: float) -> float | None:
        """Return ``amount`` by the seconds that count; None where no step does."""
        return amount / self.counted_s if self.counted_s else None


@dataclass(slots=True)
class StepClock:
    """Times steps as they are taken.

    Attributes:
        device: Where they are computed.
    """

    device: torch.device
    _parts: dict[str, float] = field(default_factory=dict[str, float])
    _steps: list[tuple[int, Any, dict[str, float], Amount]] = field(default_factory=list[Any])
    _usual: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _before: Any = None

    def __post_init__(self) -> None:
        self._before = self._now()

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Count the time within as ``name``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Count ``seconds`` as ``name``."""
        self._parts[name] = self._parts.get(name, 0.0) + seconds

    def end_step(self, step: int, amount: Amount) -> None:
        """Say that ``step`` has been taken."""
        self._steps.append((step, self._now(), self._parts, amount))
        self._parts = {}

    def read(self) -> Times:
        """Return where the time went since this was last asked; on a GPU, this waits for the steps."""
        step_s, sums, slow = list[float](), dict[str, float](), list[Slow]()
        num_counted, counted_s, amount = 0, 0.0, Amount(0, 0, 0.0)
        for step, end, parts, more in self._steps:
            seconds, self._before = self._between(self._before, end), end
            step_s.append(round(seconds, 4))
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + part
            if why := self._explain(seconds, parts):
                slow.append(Slow(step, round(seconds, 3), why))
            if not UNCOUNTED & parts.keys():
                self._usual.append(seconds)
                num_counted += 1
                counted_s += max(seconds - parts.get(EVALUATING, 0.0), 0.0)
                amount = amount.plus(more)
        self._steps = []
        slowest = sorted(slow, key=lambda each: -each.seconds)[:_MOST_TOLD]
        return Times(
            step_s=step_s,
            parts={name: round(part, 4) for name, part in sums.items()},
            slow=sorted(slowest),
            num_counted=num_counted,
            counted_s=counted_s,
            amount=amount,
        )

    def _explain(self, seconds: float, parts: dict[str, float]) -> str:
        """Return why a step was slow; empty if it was not."""
        if first := {WARMING, COMPILING} & parts.keys():
            return min(first)
        if len(self._usual) < _FEWEST:
            return ""
        usual = median(self._usual)
        if seconds < max(_TIMES * usual, usual + _LEAST_S):
            return ""
        if watched := UNCOUNTED & parts.keys():
            return min(watched)
        excess = {name: part for name, part in parts.items() if name != TELLING or self._is_host}
        excess[LEARNING] = seconds - usual - sum(v for k, v in excess.items() if k != LEARNING)
        return max(excess, key=lambda name: excess[name])

    @property
    def _is_host(self) -> bool:
        return self.device.type != "cuda"

    def _now(self) -> Any:
        if self._is_host:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, began: Any, ended: Any) -> float:
        if self._is_host:
            return ended - began
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3
