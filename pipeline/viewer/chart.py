"""Charts of numbers over steps, as SVG that a style sheet colours and a script reads out.

A chart says of each series only what can be seen: where there are more points than pixels, a stretch of steps
is one point, its mean or its greatest value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final, Literal, TypeAlias

from ...graph.render.printable import printable

Point: TypeAlias = tuple[float, float]
Scale: TypeAlias = Literal["linear", "log"]

MAX_POINTS: Final = 300
"""Points of a series that are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Numbers by step.

    Attributes:
        name: What they are.
        points: Step and number, in order.
        kind: Class of the style sheet: what colour, and whether a line or dots.
        is_dotted: Whether each point is a dot, rather than all of them a line.
    """

    name: str
    points: Sequence[Point]
    kind: str
    is_dotted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Some series over the same steps.

    Attributes:
        title: What is shown.
        series: The series.
        last: The last step of the axis.
        width: Width in px.
        height: Height in px.
        scale: How numbers are placed.
        floor: Number that the axis reaches down to at least; None for what the series need.
        ceiling: The same, up.
        write: How a number is written.
    """

    title: str
    series: Sequence[Series]
    last: int
    width: int = 640
    height: int = 220
    scale: Scale = "linear"
    floor: float | None = None
    ceiling: float | None = None
    write: Callable[[float], str] = field(default=lambda number: f"{number:.3g}")

    def draw(self) -> str:
        """Return the chart as SVG; empty if there is nothing to show."""
        shown = [each for each in self.series if each.points]
        if not shown:
            return ""
        frame = _Frame.around(self, [y for each in shown for _, y in each.points])
        body = "".join([*frame.draw_axes(self), *(_draw(each, frame) for each in shown)])
        data = [
            {
                "name": printable(each.name),
                "kind": each.kind,
                "at": [[x, frame.x(x), frame.y(y), self.write(y)] for x, y in each.points],
            }
            for each in shown
        ]
        return (
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" tabindex="0" '
            f'aria-label="{escape(printable(self.title))}" data-series="{escape(json.dumps(data))}" '
            f'data-top="{_TOP}" data-foot="{self.height - _FOOT}">{body}</svg>'
        )


def thin(points: Sequence[Point], *, by: Literal["mean", "max"] = "mean") -> list[Point]:
    """Return at most `MAX_POINTS` points: of each stretch its last step, and the mean or greatest number."""
    if len(points) <= MAX_POINTS:
        return [*points]
    found: list[Point] = []
    for number in range(MAX_POINTS):
        start, stop = (len(points) * n // MAX_POINTS for n in (number, number + 1))
        ys = [y for _, y in points[start:stop]]
        found.append((points[stop - 1][0], max(ys) if by == "max" else sum(ys) / len(ys)))
    return found


_LEFT, _RIGHT, _TOP, _FOOT = 52, 12, 10, 24
"""Room around a chart, in px."""

_FEWEST_TICKS: Final = 3
"""Round powers that a logarithmic axis must have, or it has even steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Where numbers stand."""

    width: int
    height: int
    last: int
    low: float
    high: float
    step: float
    is_log: bool

    @classmethod
    def around(cls, chart: Chart, ys: Sequence[float]) -> _Frame:
        """Return a frame that holds all of ``ys``."""
        low, high = min(ys), max(ys)
        low = low if chart.floor is None else min(low, chart.floor)
        high = high if chart.ceiling is None else max(high, chart.ceiling)
        is_log, step = chart.scale == "log", 0.0
        if is_log:
            low, high = max(low, 1e-6), max(high, 1e-6)
            low, high = low / 1.15, high * 1.15
        else:
            # Up to the next tick, so that no line ends in the open.
            step = _nice((high - low) or abs(high) or 1.0)
            low, high = math.floor(low / step) * step, math.ceil(high / step) * step
            high = high if high > low else low + step
        return cls(
            width=chart.width,
            height=chart.height,
            last=max(chart.last, 1),
            low=low,
            high=high,
            step=step,
            is_log=is_log,
        )

    def x(self, step: float) -> float:
        """Return where ``step`` is, in px from the left."""
        return round(_LEFT + (self.width - _LEFT - _RIGHT) * step / self.last, 1)

    def y(self, number: float) -> float:
        """Return where ``number`` is, in px from the top."""
        low, high, at = self.low, self.high, number
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(max(number, 1e-6))
        return round(
            self.height - _FOOT - (self.height - _TOP - _FOOT) * (at - low) / (high - low), 1
        )

    def draw_axes(self, chart: Chart) -> Iterator[str]:
        """Yield grid lines with their numbers, and steps below."""
        for tick in self._ticks():
            y = self.y(tick)
            yield f'<path class="grid" d="M{_LEFT} {y}H{self.width - _RIGHT}"/>'
            told = escape(chart.write(tick))
            yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{told}</text>'
        every = max(_nice(self.last), 1)
        steps = [n * every for n in range(int(self.last / every) + 1)]
        for step in steps:
            anchor = "start" if step == 0 else "end" if self.x(step) > self.width - 40 else "middle"
            yield (
                f'<text x="{self.x(step)}" y="{self.height - 6}" '
                f'text-anchor="{anchor}">{step:,.0f}</text>'
            )

    def _ticks(self) -> list[float]:
        if not self.is_log:
            number = round((self.high - self.low) / self.step)
            return [self.low + n * self.step for n in range(number + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [m * 10.0**p for p in powers for m in (1, 2, 5)]
        inside = [tick for tick in every if self.low <= tick <= self.high]
        if len(inside) < _FEWEST_TICKS:
            step = _nice(self.high - self.low)
            first = math.ceil(self.low / step)
            return [n * step for n in range(first, math.floor(self.high / step) + 1)]
        return inside if len(inside) <= 6 else [t for t in inside if f"{t:e}".startswith("1")]


def _draw(series: Series, frame: _Frame) -> str:
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    if series.is_dotted or len(places) == 1:
        dots = "".join(f'<circle cx="{x}" cy="{y}" r="3"/>' for x, y in places)
        return f'<g class="dots {series.kind}">{dots}</g>'
    line = " ".join(f"{x},{y}" for x, y in places)
    return f'<polyline class="line {series.kind}" points="{line}"/>'


def _nice(span: float) -> float:
    """Return a round number that divides ``span`` into about four."""
    rough = max(span / 4, 1e-300)  # the smallest numbers have no fourth part
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
