"""Every pass sees every row once, and a turn is the same row whenever it is asked for."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from taskloom.storage.order import TaskOrder, permute


@given(seed=st.integers(0, 2**63), num_rows=st.integers(1, 200), num_passes=st.integers(1, 4))
def test_each_pass_holds_every_row_once(seed: int, num_rows: int, num_passes: int) -> None:
    turns = np.arange(num_rows * num_passes)
    rows, passes = TaskOrder(seed, "caption", num_rows).find(turns)
    assert passes.tolist() == (turns // num_rows).tolist()
    for one in rows.reshape(num_passes, num_rows):
        assert sorted(one.tolist()) == list(range(num_rows))


@given(num_rows=st.integers(1, 30), asked=st.lists(st.integers(0, 300), max_size=60))
def test_a_turn_is_the_same_row_whatever_was_asked_before(num_rows: int, asked: list[int]) -> None:
    whole, _ = TaskOrder(7, "caption", num_rows).find(np.arange(301))
    order = TaskOrder(7, "caption", num_rows)
    for turn in asked:
        (row,), _ = order.find(np.array([turn]))
        assert row == whole[turn]


def test_orders_differ_between_passes_tasks_and_seeds() -> None:
    orders = [
        TaskOrder(0, "caption", 100).find(np.arange(100)),
        TaskOrder(0, "caption", 100).find(np.arange(100, 200)),
        TaskOrder(0, "vqa", 100).find(np.arange(100)),
        TaskOrder(1, "caption", 100).find(np.arange(100)),
    ]
    assert len({rows.tobytes() for rows, _ in orders}) == 4


def test_a_permutation_is_the_same_on_every_machine_and_version() -> None:
    assert permute(10, 0, "pass", "caption", 0).tolist() == [8, 5, 4, 3, 9, 0, 2, 1, 6, 7]
