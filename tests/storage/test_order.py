"""Every pass sees every row once, and tasks keep to their shares at every sample."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from taskloom.storage.order import TaskOrder, mix_tasks, permute

weights = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8)
cuts = st.lists(st.integers(0, 60), min_size=1, max_size=6)


@given(seed=st.integers(0, 2**63), num_rows=st.integers(1, 200), num_passes=st.integers(1, 4))
def test_each_pass_holds_every_row_once(seed: int, num_rows: int, num_passes: int) -> None:
    taken, passes = TaskOrder(seed, "caption", num_rows).take(0, num_rows * num_passes)
    for number, one in enumerate(taken.reshape(num_passes, num_rows)):
        assert sorted(one.tolist()) == list(range(num_rows))
        assert set(passes[number * num_rows : (number + 1) * num_rows].tolist()) == {number}


@given(num_rows=st.integers(1, 30), cuts=cuts)
def test_an_order_is_the_same_however_it_is_cut(num_rows: int, cuts: list[int]) -> None:
    whole = TaskOrder(7, "caption", num_rows).take(0, sum(cuts))
    order = TaskOrder(7, "caption", num_rows)
    starts = np.cumsum([0, *cuts]).tolist()
    parts = [order.take(start, size) for start, size in zip(starts, cuts, strict=False)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_orders_differ_between_passes_tasks_and_seeds() -> None:
    orders = [
        TaskOrder(0, "caption", 100).take(0, 100),
        TaskOrder(0, "caption", 100).take(100, 100),
        TaskOrder(0, "vqa", 100).take(0, 100),
        TaskOrder(1, "caption", 100).take(0, 100),
    ]
    assert len({rows.tobytes() for rows, _ in orders}) == 4


def test_a_permutation_is_the_same_on_every_machine_and_version() -> None:
    assert permute(10, 0, "pass", "caption", 0).tolist() == [8, 5, 4, 3, 9, 0, 2, 1, 6, 7]


@given(weights=weights, num_samples=st.integers(1, 600))
def test_no_task_is_a_sample_away_from_its_share(weights: list[float], num_samples: int) -> None:
    shares = np.array(weights) / sum(weights)
    tasks = mix_tasks(np.zeros(len(weights), np.int64), np.array(weights), num_samples)
    counts = np.cumsum(np.eye(len(weights))[tasks], axis=0)
    wanted = np.arange(1, num_samples + 1)[:, None] * shares
    bound = 1 - 1 / (2 * len(weights) - 2) if len(weights) > 1 else 0
    assert np.abs(counts - wanted).max() <= bound + 1e-9


@given(weights=weights, cuts=cuts)
def test_a_mix_goes_on_from_its_counts(weights: list[float], cuts: list[int]) -> None:
    counts = np.zeros(len(weights), np.int64)
    whole = mix_tasks(counts, np.array(weights), sum(cuts))
    parts: list[int] = []
    for size in cuts:
        part = mix_tasks(counts, np.array(weights), size)
        counts = counts + np.bincount(part, minlength=len(weights))
        parts += part.tolist()
    assert parts == whole.tolist()


def test_a_mix_keeps_its_shares_after_a_billion_samples() -> None:
    weights = np.array([3.0, 2.0, 1.0])
    counts = np.array([3, 2, 1], np.int64) * 10**9
    tasks = mix_tasks(counts, weights, 600)
    assert np.bincount(tasks).tolist() == [300, 200, 100]
