"""Where the time of a run went, on its page: each step, each part, and the steps that were slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...graph.render.quantity import count, write_seconds, write_share
from ..trainer.step_part import LEARNING
from .chart import Chart, Series, thin
from .run_facts import RunFacts
from .run_section import legend, section, text_of

MAX_SLOW: Final = 12
"""Slow steps that are listed."""

_KINDS: Final = {
    "waiting for data": "waiting",
    "evaluation": "evaluation",
    "checkpoint": "checkpoint",
    "log": "log",
    "computing": "computing",
    "measuring nodes": "measured",
    "profiling": "measured",
}
"""Class of each part of a step; whatever else there is belongs to first steps."""


def draw_time(facts: RunFacts) -> str:
    """Return the section on the time of steps; empty where the log tells of none."""
    times = list(facts.step_times())
    if not times:
        return ""
    slow = facts.slow_steps()
    kinds = dict.fromkeys(_kind(each["why"]) for each in slow)
    by_kind = {
        kind: [(s["step"], s["seconds"]) for s in slow if _kind(s["why"]) == kind] for kind in kinds
    }
    names = {_kind(each["why"]): each["why"] for each in slow}
    chart = Chart(
        title="Seconds of each step",
        series=(
            Series(name="mean", points=thin(times), kind="computing"),
            *(
                Series(
                    name=f"slow: {names[kind]}",
                    points=thin(points, by="max"),
                    kind=kind,
                    is_dotted=True,
                )
                for kind, points in by_kind.items()
            ),
        ),
        last=facts.step,
        width=1160,
        height=200,
        scale="log",
        write=write_seconds,
    )
    keys = {"a step": "computing"} | {
        f"slow: {name}": f"{kind} dot" for kind, name in names.items()
    }
    note = (
        "A step's time reaches from the end of the one before to its own, so it holds what happens in "
        f"between. {count(len(slow), 'step')} took twice as long as usual, and 20 ms longer."
    )
    body = (
        f'<div class="card scroll long">{legend(keys)}{chart.draw()}</div>'
        f'<div class="wide after"><div class="card"><h3>Where the time went</h3>{_parts(facts)}</div>'
        f'<div class="card scroll"><h3>The slowest steps</h3>{_slowest(slow)}</div></div>'
    )
    return section("Time", note, body)


def _parts(facts: RunFacts) -> str:
    parts, total = facts.time_by_part(), sum(seconds for _, seconds in facts.step_times())
    # What is left is spent in the host between parts, or by the device after the host has asked for it.
    parts[LEARNING] = parts.get(LEARNING, 0.0) + max(total - sum(parts.values()), 0.0)
    total = max(sum(parts.values()), 1e-9)
    x, rects = 0.0, list[str]()
    for name, seconds in parts.items():
        width = 100 * seconds / total
        rects.append(
            f'<rect class="fill {_kind(name)}" x="{x:.2f}" width="{width:.2f}" height="18"/>'
        )
        x += width
    rows = "".join(
        f'<tr><td class="why"><i class="key {_kind(name)}"></i>{text_of(name)}</td>'
        f'<td class="number">{write_seconds(seconds)}</td>'
        f'<td class="number">{write_share(seconds / total)}</td></tr>'
        for name, seconds in parts.items()
    )
    return (
        '<svg class="stack" viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(rects)}</svg><table><tbody>{rows}</tbody></table>"
    )


def _slowest(slow: Sequence[Mapping[str, Any]]) -> str:
    if not slow:
        return '<p class="note">None.</p>'
    rows = "".join(
        f'<tr><td class="number">{each["step"]:,}</td><td class="number">{write_seconds(each["seconds"])}</td>'
        f'<td class="why"><i class="key {_kind(each["why"])}"></i>{text_of(each["why"])}</td></tr>'
        for each in sorted(slow, key=lambda each: -each["seconds"])[:MAX_SLOW]
    )
    head = '<th class="number">step</th><th class="number">took</th><th>why</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _kind(part: str) -> str:
    return _KINDS.get(part, "first")
