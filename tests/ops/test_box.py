"""Boxes survive the trip to bins and back, and what is no box in a picture is named."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.errors import OpError
from taskloom.ops.errors import RowErrors
from taskloom.ops.host.box import NUM_BINS, MeasureImages, QuantizeBoxes, place_box
from taskloom.ops.host.image import DecodeImages

from .pictures import encode

ALONE = QuantizeBoxes(has_pictures=False)


@st.composite
def sized_boxes(draw: st.DrawFn) -> list[float]:
    """Draw a box, and width and height of the picture that it lies in."""
    width, height = draw(st.integers(1, 8000)), draw(st.integers(1, 8000))
    x0, x1 = sorted(draw(st.floats(0, width)) for _ in range(2))
    y0, y1 = sorted(draw(st.floats(0, height)) for _ in range(2))
    return [x0, y0, x1, y1, width, height]


def quantize(op: QuantizeBoxes, *values: Any, **more: Any) -> list[list[int]]:
    return op(pa.array(values), **more).to_pylist()


def reject(value: Any, op: QuantizeBoxes = ALONE, **more: Any) -> str:
    """Return what is said of a value that is no box."""
    with pytest.raises(RowErrors) as caught:
        quantize(op, value, **more)
    (problem,) = caught.value.problems
    return f"{problem.code} {problem.message}"


def sizes_of(*shapes: tuple[int, int]) -> pa.Array:
    pictures = [encode(np.zeros((*shape, 3), np.uint8), "PNG") for shape in shapes]
    return MeasureImages()(DecodeImages()(pa.array(pictures)))


@given(st.lists(sized_boxes(), min_size=1), st.sampled_from([2, 10, NUM_BINS]))
def test_a_box_comes_back_at_most_half_a_bin_from_where_it_was(
    boxes: list[list[float]], num_bins: int
) -> None:
    op = QuantizeBoxes(has_pictures=False, num_bins=num_bins)
    for bins, (*corners, width, height) in zip(quantize(op, *boxes), boxes, strict=True):
        placed = place_box(bins, (width, height), num_bins=num_bins)
        atol = 0.5001 * max(width, height) / (num_bins - 1)
        np.testing.assert_allclose(placed, corners, rtol=0, atol=atol)


@given(st.lists(st.integers(0, NUM_BINS - 1), min_size=2, max_size=2), st.integers(1, 5000))
def test_bins_are_fixed_points(corners: list[int], size: int) -> None:
    low, high = sorted(corners)
    bins = [low, low, high, high]
    box = np.clip(place_box(bins, (size, size)), 0, size).tolist()
    assert quantize(ALONE, [*box, size, size]) == [bins]


@given(sized_boxes())
def test_a_picture_that_is_resized_with_its_box_leaves_the_bins(box: list[float]) -> None:
    # As long as no coordinate is halfway between two bins, where rounding decides.
    shares = np.array(box[:4]) / np.tile(box[4:], 2) * (NUM_BINS - 1)
    if (abs(shares % 1 - 0.5) > 1e-6).all():
        half = [number / 2 for number in box]
        assert quantize(ALONE, half) == quantize(ALONE, box)


@given(st.lists(sized_boxes(), min_size=1))
def test_a_text_and_a_list_are_the_same_box(boxes: list[list[float]]) -> None:
    texts = [", ".join(map(str, box)) for box in boxes]
    as_texts = ALONE(pa.array(texts)).to_pylist()
    assert as_texts == ALONE(pa.array(boxes)).to_pylist()
    assert as_texts == ALONE(pa.array(boxes, pa.list_(pa.float64(), 6))).to_pylist()


def test_a_box_lies_in_the_picture_of_its_row_unless_it_brings_a_size() -> None:
    sizes = sizes_of((100, 200), (50, 50), (100, 200))
    assert sizes.to_numpy_ndarray().tolist() == [[200, 100], [50, 50], [200, 100]]
    boxes = ["0,0,200,100", "0,25,50,50", "0,0,200,100,400,400"]
    found = quantize(QuantizeBoxes(), *boxes, sizes=sizes)
    assert found == [[0, 0, 999, 999], [0, 500, 999, 999], [0, 0, 500, 250]]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("1,2,3", "T0255 this is no box"),
        ("1,2,3,4,5", "T0255 this is no box"),
        ("", "T0255 this is no box"),
        ("left,2,3,4,9,9", "T0255 this is no box"),
        ("1,2,nan,4,9,9", "T0255 this is no box"),
        ("1,2,inf,4,9,9", "T0255 this is no box"),
        ("1,2,3,4,wide,9", "T0255 this is no box"),
        ([1, 2, 3, None, 9, 9], "T0255 this is no box"),
        ("1,2,3,4", "T0255 nothing says how large the picture of the box is"),
        ("0,0,0,0,0,9", "T0255 nothing says how large the picture of the box is"),
        ("1,2,3,9.5,9,9", "T0256 the box leaves its picture of 9 x 9 pixels"),
        ("-1,2,3,4,9,9", "T0256 the box leaves its picture of 9 x 9 pixels"),
        ("5,2,3,4,9,9", "T0256 the box ends before it begins"),
    ],
)
def test_what_is_no_box_in_its_picture_is_refused(value: Any, told: str) -> None:
    assert reject(value) == told


def test_a_size_that_is_none_is_not_that_of_the_picture() -> None:
    assert reject("1,2,3,4,wide,9", QuantizeBoxes(), sizes=sizes_of((9, 9))).startswith("T0255")


def test_columns_of_other_values_are_refused() -> None:
    with pytest.raises(OpError, match="T0255"):
        ALONE(pa.array([1, 2]))
    with pytest.raises(OpError, match="num_bins"):
        QuantizeBoxes(num_bins=1)


def test_no_boxes_are_none() -> None:
    assert ALONE(pa.nulls(0)).to_pylist() == []
    assert ALONE(pa.array([], pa.list_(pa.float32()))).to_pylist() == []
