"""Every two places of a slot have the bias that OFASys gives them, and no other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.ops.device.relative.places import (
    Form,
    Ints,
    bucket_line,
    frames,
    grid,
    grid_ids,
    line,
)

sides = st.integers(1, 6)


def look_up(form: Form, table: str) -> Ints:
    """Return the row of every query and key, as attention finds it; none lies outside."""
    entries = form.bases_P[:, None] + form.codes_P - form.codes_P[:, None]
    assert entries.min() >= 0
    assert entries.max() < form.num_differences
    return form.rows[table][entries]


def bucket_cells(ids: Ints, bucket: int) -> Ints:
    """Return the row for every two ids of cells, 0 for the start, written down as OFASys has it."""
    rows, columns = np.divmod(ids - 1, bucket)
    down, right = (each[:, None] - each for each in (rows, columns))
    found = (down + bucket - 1) * (2 * bucket - 1) + right + bucket - 1
    size = (2 * bucket - 1) ** 2 + 3
    is_start = ids == 0
    found[is_start] = size - 3
    found[:, is_start] = size - 2
    found[np.ix_(is_start, is_start)] = size - 1
    return found


@given(num_rows=sides, num_columns=sides, bucket=st.integers(6, 9), has_start=st.booleans())
def test_cells_of_a_grid_have_the_row_of_their_difference(
    *, num_rows: int, num_columns: int, bucket: int, has_start: bool
) -> None:
    form = grid("image", num_rows, num_columns, bucket=bucket, has_start=has_start)
    ids = grid_ids(num_rows, num_columns, bucket, has_start=has_start)
    found = look_up(form, "image")
    np.testing.assert_array_equal(found, bucket_cells(ids, bucket))
    assert found.max() < form.sizes["image"]


@given(st.integers(1, 60), st.sampled_from([4, 8, 32]))
def test_tokens_of_a_line_have_the_row_of_their_distance(num_places: int, bucket: int) -> None:
    found = look_up(line("text", num_places, bucket=bucket, longest=60), "text")
    index = np.arange(num_places)
    behind = index[:, None] - index
    np.testing.assert_array_equal(found, bucket_line(behind, bucket, 60) + bucket - 1)
    assert found.min() >= 0
    assert found.max() < 2 * bucket - 1


@given(st.integers(1, 5), sides, sides)
def test_frames_add_what_lies_between_them_to_what_lies_within(
    num_frames: int, num_rows: int, num_columns: int
) -> None:
    form = frames(
        "video",
        num_frames,
        frame_table="image",
        num_rows=num_rows,
        num_columns=num_columns,
        frame_bucket=6,
        bucket=8,
        longest=16,
    )
    within = look_up(grid("image", num_rows, num_columns, bucket=6), "image")
    between = look_up(line("video", num_frames, bucket=8, longest=16), "video")
    np.testing.assert_array_equal(look_up(form, "image"), np.tile(within, (num_frames, num_frames)))
    cells = np.ones((num_rows * num_columns,) * 2, np.int64)
    np.testing.assert_array_equal(look_up(form, "video"), np.kron(between, cells))


@pytest.mark.parametrize("longest", [256, 1024, 4096])
def test_near_distances_are_told_apart_and_far_ones_ever_less(longest: int) -> None:
    behind = np.arange(1, longest)
    buckets = bucket_line(behind, 256, longest)
    np.testing.assert_array_equal(buckets[:128], behind[:128])
    np.testing.assert_array_equal(bucket_line(-behind, 256, longest), -buckets)
    assert (np.diff(buckets) >= 0).all()
    assert buckets[-1] == 255
