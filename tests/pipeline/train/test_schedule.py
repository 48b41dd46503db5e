"""The learning rate rises to its peak and falls to what is left, without a jump, whatever the settings."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskloom.graph.errors import TrainingError
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.schedule import count_warmup, rate_at, share_at

KINDS = ("cosine", "polynomial", "constant")


@st.composite
def configs(draw: st.DrawFn) -> TrainConfig:
    steps = draw(st.integers(2, 400))
    share = st.floats(0, 0.95) | st.integers(1, steps - 1).map(float)
    return TrainConfig(
        steps=steps,
        schedule=draw(st.sampled_from(KINDS)),
        warmup=draw(share),
        power=draw(st.floats(0.5, 4)),
        final_rate=draw(st.floats(0, 1)),
        learning_rate=draw(st.floats(1e-6, 1)),
    )


def test_a_seed_is_one_that_torch_takes() -> None:
    assert TrainConfig(seed=2**63 - 1).seed
    with pytest.raises(TrainingError, match=r"T0730.*seed must be below 2\*\*63"):
        TrainConfig(seed=2**63)


@given(configs())
def test_the_rate_is_above_nothing_and_never_above_the_peak(config: TrainConfig) -> None:
    rates = [rate_at(config, step) for step in range(config.steps)]
    assert all(0 < rate <= config.learning_rate * (1 + 1e-12) for rate in rates)
    assert max(rates) == pytest.approx(config.learning_rate)


@given(configs())
def test_it_rises_in_a_line_over_the_warm_up_and_never_after_it(config: TrainConfig) -> None:
    warmup = count_warmup(config)
    shares = [share_at(config, step) for step in range(config.steps)]
    assert shares[:warmup] == pytest.approx([(n + 1) / warmup for n in range(warmup)])
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(shares[warmup - 1 :]))


@given(configs())
def test_no_step_is_larger_than_the_schedule_is_steep(config: TrainConfig) -> None:
    """A cosine is at most pi / 2 times as steep as a line, a power as many times as it says."""
    warmup = count_warmup(config)
    left = max(1, config.steps - warmup)
    fall = (1 / left) ** min(1, config.power) * max(2, config.power)
    shares = [share_at(config, step) for step in range(config.steps + 1)]
    assert all(
        abs(later - earlier) <= max(1 / warmup, fall) + 1e-9 for earlier, later in pairwise(shares)
    )


@given(configs())
@example(TrainConfig(steps=2, warmup=0.95))
def test_it_comes_to_what_is_left_when_the_run_ends(config: TrainConfig) -> None:
    end = share_at(config, config.steps)
    assert end == pytest.approx(1 if config.schedule == "constant" else config.final_rate)
    assert share_at(config, 10 * config.steps) == end


@given(st.integers(2, 1000), st.floats(0.001, 0.999))
def test_a_warm_up_below_one_is_a_share_and_others_are_steps(steps: int, share: float) -> None:
    config = TrainConfig(steps=steps, warmup=share)
    assert count_warmup(config) == max(1, round(share * steps))
    assert count_warmup(TrainConfig(steps=steps, warmup=17)) == 17


def test_a_power_of_one_is_a_line_and_of_two_lies_below_it() -> None:
    line, square = (
        TrainConfig(steps=11, warmup=1, schedule="polynomial", power=power, final_rate=0.0)
        for power in (1.0, 2.0)
    )
    assert [share_at(line, step) for step in (1, 6, 11)] == pytest.approx([1, 0.5, 0])
    assert [share_at(square, step) for step in (1, 6, 11)] == pytest.approx([1, 0.25, 0])
