"""Tasks keep to their shares at every sample, also where shares change and however long the stream is."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from taskloom.graph.errors import LoaderError
from taskloom.storage.blend import Blend
from taskloom.storage.mix import UNIT, mix_tasks, settle, to_shares

weights = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8)
cuts = st.lists(st.integers(0, 60), min_size=1, max_size=6)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50).filter(any))
def test_shares_add_up_and_only_no_weight_is_no_share(values: list[float]) -> None:
    shares = to_shares(values)
    assert shares.sum() == UNIT
    assert ((shares > 0) == (np.array(values) > 0)).all()
    exact = np.array(values) / sum(values)
    assert np.abs(shares / UNIT - exact).max() < len(values) / UNIT


@given(weights=weights, num_samples=st.integers(1, 600))
def test_no_task_is_a_sample_away_from_its_share(weights: list[float], num_samples: int) -> None:
    num_tasks = len(weights)
    shares = to_shares(weights)
    tasks = mix_tasks(np.zeros(num_tasks, np.int64), shares, num_samples)
    counts = np.cumsum(np.eye(num_tasks)[tasks], axis=0)
    wanted = np.arange(1, num_samples + 1)[:, None] * (np.array(weights) / sum(weights))
    bound = 1 - 1 / (2 * num_tasks - 2) if num_tasks > 1 else 0
    assert np.abs(counts - wanted).max() <= bound + 1e-6


@given(weights=weights, cuts=cuts)
def test_a_mix_goes_on_from_what_is_owed(weights: list[float], cuts: list[int]) -> None:
    shares = to_shares(weights)
    owed = np.zeros(len(weights), np.int64)
    whole = mix_tasks(owed, shares, sum(cuts))
    parts: list[int] = []
    for size in cuts:
        part = mix_tasks(owed, shares, size)
        owed = settle(owed, shares, part)
        parts += part.tolist()
    assert parts == whole.tolist()


@given(
    pieces=st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), st.integers(1, 90)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_task_is_a_sample_away_where_shares_change(pieces: list[tuple[list[int], int]]) -> None:
    owed = np.zeros(4, np.int64)
    for values, size in pieces:
        shares = to_shares(values)
        tasks = mix_tasks(owed, shares, size)
        assert (shares[tasks] > 0).all()
        owed = settle(owed, shares, tasks)
        assert owed.sum() == 0
        assert np.abs(owed).max() < UNIT


def test_a_mix_keeps_its_shares_after_a_billion_samples() -> None:
    shares = to_shares([3.0, 2.0, 1.0])
    owed = np.zeros(3, np.int64)
    tasks = mix_tasks(settle(owed, shares, np.empty(0, np.int64)), shares, 600)
    assert np.bincount(tasks).tolist() == [300, 200, 100]
    drift = np.abs(shares / UNIT - np.array([3, 2, 1]) / 6) * 10**9
    assert drift.max() < 1


def test_parts_of_a_part_divide_its_share() -> None:
    inner = Blend(("a", "b"), (0,), ((1, 3),))
    outer = Blend((inner, "c"), (0,), ((2, 2),))
    assert outer.tasks == ("a", "b", "c")
    assert outer.at(7) == {"a": 0.125, "b": 0.375, "c": 0.5}


@pytest.mark.parametrize(
    ("manner", "step", "share"),
    [("jump", 9, 1.0), ("jump", 10, 0.5), ("jump", 99, 0.25), ("line", 0, 1.0), ("line", 5, 0.75)],
)
def test_shares_jump_or_run_between_knots(manner: str, step: int, share: float) -> None:
    shares = ((1.0, 0.0), (4.0, 4.0), (1.0, 3.0))
    blend = Blend(("a", "b"), (0, 10, 20), shares, is_linear=manner == "line")
    assert blend.at(step) == {"a": share, "b": 1 - share}


@pytest.mark.parametrize(
    ("blend", "message"),
    [
        pytest.param(((), (0,), ((),)), "needs parts", id="empty"),
        pytest.param((("a",), (5, 5), ((1,), (1,))), "steps must ascend", id="steps"),
        pytest.param((("a",), (0,), ((1, 2),)), "2 shares for 1 parts", id="number"),
        pytest.param((("a",), (0,), ((-1,),)), "not negative, got -1", id="negative"),
        pytest.param((("a", "b"), (0, 9), ((1, 1), (0, 0))), "is 0 at step 9", id="nothing"),
        pytest.param((("a", "a"), (0,), ((1, 1),)), '"a" is in it twice', id="twice"),
    ],
)
def test_shares_that_make_no_sense_are_refused(blend: tuple[tuple[str, ...]], message: str) -> None:
    with pytest.raises(LoaderError, match=message):
        Blend(*blend)  # pyright: ignore[reportCallIssue]
