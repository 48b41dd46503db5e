"""Masks and replaced ids follow their formulas, whatever the batch."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.errors import OpError
from taskloom.ops.draw import Keys, make_keys, number_rows
from taskloom.ops.host.noise import MaskSpans, ReplaceIds

MASK, NUM_IDS = 300, 256


def make_ids(lengths: list[int]) -> pa.Array:
    """Return rows of ids, in each of which every id is another one."""
    return pa.array([list(range(length)) for length in lengths], pa.list_(pa.uint16()))


def keys_of(num_rows: int, pass_number: int = 0) -> Keys:
    rows = number_rows("5c1f0a", np.arange(num_rows))
    return make_keys(seed=3, stream=5, pass_number=pass_number, rows=rows)


def lengths_of(ids: pa.Array) -> npt.NDArray[np.int64]:
    return np.diff(np.asarray(ids.offsets)).astype(np.int64)


def mask(lengths: list[int], **settings: Any) -> list[list[int]]:
    op = MaskSpans(mask_id=MASK, num_ids=NUM_IDS, **settings)
    ids, keys = make_ids(lengths), keys_of(len(lengths))
    made = op(ids, keys=keys)
    planned = op.plan_lengths(lengths_of(ids), keys=keys)
    assert planned.tolist() == lengths_of(made).tolist()
    return made.to_pylist()


lengths = st.lists(st.integers(0, 20), max_size=12)
ratios = st.floats(0, 1)
settings = st.fixed_dictionaries(
    {
        "ratio": ratios,
        "mean_span": st.floats(0.05, 10),
        "replace_length": st.sampled_from([-1, 0, 1]),
        "random_ratio": ratios,
    }
)


@given(lengths, settings)
def test_a_row_is_what_it_would_be_alone(lengths: list[int], settings: dict[str, Any]) -> None:
    op = MaskSpans(mask_id=MASK, num_ids=NUM_IDS, **settings)
    ids, keys = make_ids(lengths), keys_of(len(lengths))
    alone = [op(ids.slice(i, 1), keys=keys[i : i + 1]).to_pylist()[0] for i in range(len(ids))]
    assert op(ids, keys=keys).to_pylist() == alone


@given(lengths, settings)
def test_what_is_not_masked_stays_in_its_order(
    lengths: list[int], settings: dict[str, Any]
) -> None:
    for row, length in zip(mask(lengths, **settings | {"random_ratio": 0}), lengths, strict=True):
        rest = [value for value in row if value != MASK]
        assert rest == sorted(set(rest) & set(range(length)))


@given(lengths)
def test_a_ratio_of_nothing_changes_nothing(lengths: list[int]) -> None:
    assert mask(lengths, ratio=0) == make_ids(lengths).to_pylist()
    op = ReplaceIds(ratio=0, num_ids=NUM_IDS)
    assert op(make_ids(lengths), keys=keys_of(len(lengths))).equals(make_ids(lengths))


@given(lengths, ratios)
def test_no_more_ids_are_masked_than_the_ratio_says(lengths: list[int], ratio: float) -> None:
    for row, length in zip(mask(lengths, ratio=ratio), lengths, strict=True):
        kept = sum(value != MASK for value in row)
        assert length - kept <= np.ceil(length * ratio)


@given(lengths, ratios)
def test_spans_become_one_mask_each_or_vanish(lengths: list[int], ratio: float) -> None:
    each = mask(lengths, ratio=ratio, replace_length=-1)
    one = mask(lengths, ratio=ratio, replace_length=1)
    none = mask(lengths, ratio=ratio, replace_length=0)
    for whole, few, rest in zip(each, one, none, strict=True):
        unmasked = [value for value in whole if value != MASK]
        assert [value for value in few if value != MASK] == unmasked
        assert [value for value in rest if value != MASK] == unmasked
        assert len(rest) <= len(few) <= len(whole)


def test_spans_have_the_lengths_of_their_distribution() -> None:
    # One long row: of so many ids hardly any two spans touch.
    (row,) = mask([60_000], ratio=0.01)
    is_mask = np.array(row) == MASK
    edges = np.flatnonzero(np.diff(is_mask.astype(int)))
    spans = edges[1::2] - edges[::2]
    # Spans of length 0 are inserted masks, so a span in the text has at least 1; a Poisson of 3 has
    # a mean of 3 / (1 - e^-3) then, and is 1 about as often as e^-3 * 3 / (1 - e^-3) says.
    inserted = len(row) - 60_000
    assert is_mask.sum() - inserted == pytest.approx(600, abs=30)
    assert 0 < inserted < 30
    long = spans[spans > 1]
    assert long.mean() == pytest.approx((3 - 3 * np.exp(-3)) / (1 - 4 * np.exp(-3)), rel=0.1)


def test_masks_are_spread_evenly() -> None:
    rows = mask([40] * 20_000, ratio=0.1, mean_span=1, replace_length=-1)
    counts = np.zeros(40)
    for row in rows:
        if len(row) == 40:
            counts += np.array(row) == MASK
    # A span is cut at the end of its row, and none begins before it: the edges get a little less.
    inner = counts[5:-5]
    assert abs(inner / inner.mean() - 1).max() < 0.1


def test_random_ids_stand_for_whole_spans() -> None:
    rows = mask([50] * 2000, ratio=0.3, random_ratio=1.0)
    assert MASK not in {value for row in rows for value in row}
    (half, whole) = (
        sum(value == MASK for row in mask([50] * 2000, ratio=0.3, random_ratio=r) for value in row)
        for r in (0.5, 0.0)
    )
    assert half / whole == pytest.approx(0.5, abs=0.1)


def test_ids_are_replaced_as_often_as_the_ratio_says_and_by_any() -> None:
    op = ReplaceIds(ratio=0.25, num_ids=NUM_IDS)
    ids = pa.array([[1000] * 50] * 2000, pa.list_(pa.uint16()))
    made = np.asarray(op(ids, keys=keys_of(2000)).values)
    drawn = made[made != 1000]
    assert len(drawn) / len(made) == pytest.approx(0.25, abs=0.01)
    assert set(drawn.tolist()) == set(range(NUM_IDS))
    assert np.bincount(drawn).std() / np.bincount(drawn).mean() < 0.2


@pytest.mark.parametrize(
    "op",
    [
        MaskSpans(ratio=0.3, mask_id=MASK, num_ids=NUM_IDS),
        ReplaceIds(ratio=0.3, num_ids=NUM_IDS),
    ],
    ids=["mask", "replace"],
)
def test_another_pass_draws_anew_and_the_same_pass_the_same(op: Any) -> None:
    ids = make_ids([30] * 50)
    first, again, other = (op(ids, keys=keys_of(50, number)) for number in (0, 0, 1))
    assert first.equals(again)
    differ = sum(a != b for a, b in zip(first.to_pylist(), other.to_pylist(), strict=True))
    assert differ >= 45


def test_slices_of_longer_arrays_are_read_from_their_start() -> None:
    ids = make_ids([3, 9, 9, 4])
    op = MaskSpans(ratio=0.5, mask_id=MASK, num_ids=NUM_IDS)
    keys = keys_of(4)
    assert op(ids.slice(1, 2), keys=keys[1:3]).equals(op(ids, keys=keys).slice(1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.5}, "ratio must be from 0 to 1"),
        ({"ratio": float("nan")}, "ratio must be from 0 to 1"),
        ({"random_ratio": -1}, "random_ratio must be"),
        ({"mean_span": 0}, "mean_span must be above 0"),
        ({"replace_length": 2}, "replace_length must be -1, 0 or 1"),
        ({"mask_id": 70_000}, "id 70000 does not fit uint16"),
        ({"mask_id": -1}, "mask_id must be at least 0"),
        ({"num_ids": 0}, "num_ids must be at least 1"),
        ({"dtype": "int8"}, "ids are uint8, uint16 or uint32"),
    ],
)
def test_parameters_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {"ratio": 0.1, "mask_id": MASK, "num_ids": NUM_IDS}
    with pytest.raises(OpError, match=message):
        MaskSpans(**defaults | settings)
