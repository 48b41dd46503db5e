"""Drawn numbers are even, independent of order and batch, and the same for good."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from taskloom.ops.draw import (
    Keys,
    derive_keys,
    digest_stream,
    draw_integers,
    draw_uniforms,
    draw_words,
    make_keys,
    number_rows,
)

MANY = 100_000


def keys_of(num_rows: int, *, seed: int = 7, task: str = "caption", pass_number: int = 0) -> Keys:
    rows = number_rows("5c1f0a", np.arange(num_rows))
    stream = digest_stream(task, "caption.text/mask")
    return make_keys(seed=seed, stream=stream, pass_number=pass_number, rows=rows)


def chi_square(counts: npt.NDArray[np.int64]) -> float:
    """Return how many standard deviations counts that should be equal lie from what chance gives."""
    expected = counts.sum() / len(counts)
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def test_numbers_never_change() -> None:
    keys = keys_of(2)
    assert digest_stream("caption", "caption.text/mask") == 0x407911A151D12F54
    assert keys.tolist() == [0x482A3E3BC36F65B5, 0xEE2AC608DF0301AD]
    assert draw_words(keys, np.array([2, 1])).tolist() == [
        0xAD0E50E7BAA0443D,
        0x464B52A6BE2D3416,
        0xD24D69BECCB84BC3,
    ]
    assert draw_integers(keys, np.array([4, 0]), 1000).tolist() == [675, 274, 882, 347]
    assert derive_keys(keys, 3)[0] == 0x46A7CC7BBE86CE89


def test_a_key_counts_as_splitmix64_does() -> None:
    # The first outputs of the reference code for seed 1234567.
    words = draw_words(np.array([1234567], np.uint64), np.array([3]))
    assert words.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(lambda: draw_uniforms(keys_of(1), np.array([MANY])), id="of one row"),
        pytest.param(lambda: draw_uniforms(keys_of(MANY), np.ones(MANY, np.int64)), id="of rows"),
        pytest.param(
            lambda: draw_uniforms(derive_keys(keys_of(MANY), 1), np.ones(MANY, np.int64)),
            id="of another purpose",
        ),
    ],
)
def test_numbers_are_even(numbers: Callable[[], npt.NDArray[np.float64]]) -> None:
    drawn = numbers()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(chi_square(np.bincount((drawn * 100).astype(int), minlength=100))) < 5
    # And so are pairs of neighbours, which a poor generator lays on lines.
    pairs = (drawn[::2] * 10).astype(int) * 10 + (drawn[1::2] * 10).astype(int)
    assert abs(chi_square(np.bincount(pairs, minlength=100))) < 5


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"seed": 8}, id="seed"),
        pytest.param({"task": "vqa"}, id="stream"),
        pytest.param({"pass_number": 1}, id="pass"),
    ],
)
def test_what_is_drawn_elsewhere_tells_nothing(other: dict[str, Any]) -> None:
    one = np.ones(MANY, np.int64)
    here, there = draw_uniforms(keys_of(MANY), one), draw_uniforms(keys_of(MANY, **other), one)
    assert abs(np.corrcoef(here, there)[0, 1]) < 5 / np.sqrt(MANY)
    assert not np.isin(keys_of(MANY), keys_of(MANY, **other)).any()


@given(st.lists(st.integers(0, 5), max_size=8), st.randoms())
def test_order_and_batch_change_nothing(counts: list[int], random: Random) -> None:
    keys, lengths = keys_of(len(counts)), np.array(counts, np.int64)
    whole = np.split(draw_words(keys, lengths), np.cumsum(lengths)[:-1]) if counts else []
    order = list(range(len(counts)))
    random.shuffle(order)
    for row in order:
        assert draw_words(keys[row : row + 1], lengths[row : row + 1]).tolist() == list(whole[row])


@given(st.integers(1, 1 << 32), st.integers(0, 1 << 63))
def test_integers_stay_in_their_range(stop: int, seed: int) -> None:
    drawn = draw_integers(keys_of(4, seed=seed), np.full(4, 8), stop)
    assert ((drawn >= 0) & (drawn < stop)).all()


def test_rows_of_two_partitions_are_apart() -> None:
    rows = [number_rows(name, np.arange(1000)) for name in ("5c1f0a", "5c1f0b")]
    assert len(np.unique(np.concatenate(rows))) == 2000


def test_more_numbers_begin_with_the_same_ones() -> None:
    few, many = (draw_words(keys_of(1), np.array([count])) for count in (3, 9))
    assert many[:3].tolist() == few.tolist()
