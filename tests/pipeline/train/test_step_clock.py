"""A slow step is told with the part that made it slow; what prepares a run is no part of a rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from taskloom.pipeline.trainer.run_log import read_log
from taskloom.pipeline.trainer.step_clock import Amount, StepClock
from taskloom.pipeline.trainer.step_part import (
    COMPILING,
    EVALUATING,
    LEARNING,
    SAVING,
    WAITING,
    WARMING,
)

from .stores import continue_run

NOTHING = Amount(0, 0, 0.0)
CPU = torch.device("cpu")


def take(
    clock: StepClock,
    step: int,
    parts: Mapping[str, float],
    amount: Amount = NOTHING,
    *,
    untold_s: float = 0.0,
) -> None:
    """End a step that took as long as its ``parts`` together, and longer by what is told of no part."""
    # Time is given by hand.
    began = clock._steps[-1][1] if clock._steps else clock._before  # noqa: SLF001
    for part, seconds in parts.items():
        clock.add(part, seconds)
    clock.end_step(step, amount)
    ended = began + sum(parts.values()) + untold_s
    clock._steps[-1] = (step, ended, *clock._steps[-1][2:])  # noqa: SLF001


@given(st.lists(st.sampled_from([WAITING, EVALUATING, SAVING]), min_size=1, max_size=6))
def test_a_slow_step_is_told_with_the_part_that_made_it_slow(reasons: list[str]) -> None:
    clock = StepClock(CPU)
    expected: list[tuple[int, str]] = []
    for step in range(1, 8 + 3 * len(reasons)):
        is_slow = step >= 8 and step % 3 == 0 and len(expected) < len(reasons)
        parts = {LEARNING: 0.009}
        if is_slow:
            expected.append((step, reasons[len(expected)]))
            parts[expected[-1][1]] = 0.5
        take(clock, step, parts, untold_s=0.001)
    assert [(each.step, each.why) for each in clock.read().slow] == expected
    assert clock.read().step_s == []


@pytest.mark.parametrize("part", [WARMING, COMPILING])
def test_what_prepares_is_told_however_short_and_nothing_is_usual_by_it(part: str) -> None:
    clock = StepClock(CPU)
    for step in range(1, 20):
        # All of them are as long, and only the first is told.
        take(clock, step, {part if step == 1 else LEARNING: 0.01})
    times = clock.read()
    assert times.slow == [(1, 0.01, part)]
    assert times.parts == pytest.approx({part: 0.01, LEARNING: 0.18})
    assert times.num_counted == 18


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own doings
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_a_compiled_run_tells_that_its_first_step_compiled(store_dir: Path, tmp_path: Path) -> None:
    continue_run(store_dir, tmp_path, compile="on", steps=3)
    (line,) = read_log(tmp_path)
    assert [(each["step"], each["why"]) for each in line["slow"]] == [(1, COMPILING)]
    assert line["time"][COMPILING] > line["step_s"][0] / 2


def test_warm_up_and_evaluation_are_no_part_of_a_rate() -> None:
    clock = StepClock(CPU)
    for step, (part, seconds) in enumerate([(WARMING, 9.0), (LEARNING, 1.0), (EVALUATING, 5.0)], 1):
        take(clock, step, {part: seconds}, Amount(100, 10, 1e9))
    times = clock.read()
    assert times.num_counted == 2
    assert times.rate(times.amount.tokens) == pytest.approx(200 / 1.0)
