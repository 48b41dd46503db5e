"""Rows are held out by their key alone."""

from __future__ import annotations

import datetime as dt
from random import Random

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.errors import OpError
from taskloom.ops.host.split import TEST, TRAIN, VALID, AssignSplits

shares = st.floats(0, 1, exclude_max=True)
keys = st.lists(st.text() | st.integers().map(str), min_size=1, max_size=30)


def assign(op: AssignSplits, keys: list[str]) -> list[int]:
    return op(pa.array([TRAIN] * len(keys), pa.uint8()), pa.array(keys, pa.string())).to_pylist()


@given(keys, shares, shares, st.randoms())
def test_a_key_has_one_split_in_any_order(
    keys: list[str], test: float, valid: float, random: Random
) -> None:
    op = AssignSplits(test=test, valid=valid)
    expected = dict(zip(keys, assign(op, keys), strict=True))
    shuffled = random.sample(keys * 2, len(keys) * 2)
    assert assign(op, shuffled) == [expected[key] for key in shuffled]


@given(keys, shares, shares, shares)
def test_holding_out_more_never_gives_a_held_out_row_back(
    keys: list[str], first: float, second: float, valid: float
) -> None:
    few, many = sorted((first, second))
    before = assign(AssignSplits(test=few, valid=valid), keys)
    after = assign(AssignSplits(test=many, valid=valid), keys)
    # A row goes to the test split or stays where it is.
    assert all(new in (TEST, old) for old, new in zip(before, after, strict=True))


def test_shares_are_met_and_the_valid_share_is_of_the_rest() -> None:
    splits = assign(AssignSplits(test=0.5, valid=0.2), [str(i) for i in range(20_000)])
    counts = np.bincount(splits, minlength=3) / len(splits)
    np.testing.assert_allclose(counts, [0.4, 0.1, 0.5], atol=0.015)


def test_no_share_holds_out_nothing() -> None:
    assert set(assign(AssignSplits(), [str(i) for i in range(1000)])) == {TRAIN}


def test_rows_that_a_source_already_holds_out_stay() -> None:
    given_splits = pa.array([TEST, VALID] * 500, pa.uint8())
    moved = AssignSplits(test=0.9, valid=0.9)(given_splits, pa.array(range(1000)))
    assert moved.equals(given_splits)


def test_splits_are_the_same_today_as_when_they_were_built() -> None:
    # Held-out rows of stores that exist must never become training rows.
    splits = assign(AssignSplits(test=0.3, valid=0.3), [f"review-{i}" for i in range(16)])
    assert splits == [0, 1, 0, 2, 2, 2, 0, 2, 2, 0, 2, 2, 0, 2, 0, 1]


@pytest.mark.parametrize(
    "spelled",
    [
        pytest.param(pa.array([5, 70, 800]), id="integers"),
        pytest.param(pa.array([5.0, 70.0, 800.0]), id="floats"),
        pytest.param(pa.array([b"5", b"70", b"800"]), id="bytes"),
        pytest.param(pa.array(["5", "70", "800"]).dictionary_encode(), id="dictionary"),
    ],
)
def test_a_key_is_the_same_however_a_source_spells_it(spelled: pa.Array) -> None:
    op = AssignSplits(test=0.5, valid=0.5)
    splits = op(pa.array([TRAIN] * 3, pa.uint8()), spelled)
    assert splits.to_pylist() == assign(op, ["5", "70", "800"])


def test_dates_can_be_keys() -> None:
    dates = pa.array([dt.date(2026, 1, day) for day in range(1, 32)])
    splits = AssignSplits(test=0.5)(pa.array([TRAIN] * 31, pa.uint8()), dates)
    assert set(splits.to_pylist()) == {TRAIN, TEST}


def test_lists_cannot_be_keys() -> None:
    with pytest.raises(OpError, match=r"type list<.*> cannot be a key"):
        AssignSplits(test=0.5)(pa.array([TRAIN], pa.uint8()), pa.array([[1]]))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("name", ["test", "valid"])
def test_impossible_shares_are_refused(name: str, share: float) -> None:
    with pytest.raises(OpError, match=rf"the {name} share must be at least 0 and below 1"):
        AssignSplits(**{name: share})
