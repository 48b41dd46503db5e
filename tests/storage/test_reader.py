"""Rows are gathered from many partitions as from one array, and damage is seen on opening."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import StoreError
from taskloom.graph.type import Type
from taskloom.storage import arrow_file
from taskloom.storage.reader import ColumnReader, open_column
from taskloom.storage.store import Store

from .columns import (
    BOXES,
    IDS,
    IMAGES,
    KEEPS,
    SPLITS,
    TEXTS,
    ids,
    memory_folder,
    tensors,
    write_column,
)


def spans(reader: ColumnReader, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[Any]]:
    """Return the value of each of ``rows`` of a ragged column."""
    gathered = reader.gather(rows)
    assert isinstance(gathered, tuple)
    values, offsets = gathered
    assert len(values) == offsets[-1]
    return np.split(values, offsets[1:-1]) if len(rows) else []


@given(
    st.lists(st.lists(st.none() | st.lists(st.integers(0, 65_535), max_size=6)), max_size=5),
    st.data(),
)
@settings(max_examples=40)
def test_ragged_rows_are_gathered_from_any_partitions(
    partitions: list[list[list[int] | None]], data: st.DataObject
) -> None:
    names = [f"p{i}" for i in range(len(partitions))]
    every = [row for rows in partitions for row in rows]
    anywhere = st.integers(0, max(0, len(every) - 1))
    rows = np.array(data.draw(st.lists(anywhere, max_size=20)) if every else [], np.int64)
    with memory_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow_file, "BATCH_ROWS", 3)
        store = Store.create(folder)
        for name, part in zip(names, partitions, strict=True):
            write_column(store, "k", name, IDS, ids(part))
        if not partitions:
            return
        reader = open_column(store, "s", "k", names)
        assert reader.num_rows == len(every)
        assert reader.lengths.tolist() == [len(row or []) for row in every]
        assert reader.valid.tolist() == [row is not None for row in every]
        assert [span.tolist() for span in spans(reader, rows)] == [every[r] or [] for r in rows]
        assert reader.take(rows).to_pylist() == [every[r] for r in rows]


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        pytest.param(SPLITS, pa.array([0, 2, None, 1], pa.uint8()), id="numbers"),
        pytest.param(KEEPS, pa.array([True, None, False, True] * 5), id="truth values"),
        pytest.param(replace(SPLITS, dtype="double"), pa.array([0.5, None, -1.0]), id="floats"),
        pytest.param(
            replace(SPLITS, dtype="int32", shape=(2,)),
            pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2)),
            id="pairs",
        ),
        pytest.param(
            IMAGES, tensors(np.arange(90, dtype=np.uint8).reshape(5, 3, 2, 3)), id="images"
        ),
        pytest.param(
            IMAGES,
            tensors(np.ones((3, 3, 2, 3), np.uint8), np.array([True, False, True])),
            id="images with nulls",
        ),
    ],
)
def test_rows_of_one_size_are_gathered_and_null_is_zero(
    tmp_path: Path, type_: Type, values: Any
) -> None:
    store = Store.create(tmp_path)
    write_column(store, "k", "p0", type_, values)
    write_column(store, "k", "p1", type_, values.slice(1))
    reader = open_column(store, "s", "k", ["p0", "p1"])
    rows = np.random.default_rng(0).integers(0, reader.num_rows, 50)
    everything = [*values.to_pylist(), *values.slice(1).to_pylist()]
    picked = [everything[row] for row in rows]
    taken = reader.take(rows)
    assert [None if v is None else np.ravel(v).tolist() for v in taken.to_pylist()] == [
        None if v is None else np.ravel(v).tolist() for v in picked
    ]
    gathered = reader.gather(rows)
    assert isinstance(gathered, np.ndarray)
    nothing = np.zeros(gathered[0].size)
    expected = [nothing if v is None else np.ravel(v) for v in picked]
    np.testing.assert_array_equal(gathered, np.reshape(expected, gathered.shape))
    np.testing.assert_array_equal(reader.valid[rows], [v is not None for v in picked])


def test_text_is_gathered_as_bytes_and_boxes_as_rows(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    write_column(store, "texts", "p0", TEXTS, pa.array(["häh", None, "", "x"]))
    boxes = [[[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]], None, [[8.0] * 4], []]
    write_column(store, "boxes", "p0", BOXES, pa.array(boxes, pa.list_(pa.list_(pa.float32(), 4))))
    rows = np.array([3, 0, 1, 2, 0])
    texts = open_column(store, "s", "texts", ["p0"])
    assert [bytes(span).decode() for span in spans(texts, rows)] == ["x", "häh", "", "", "häh"]
    assert texts.lengths.tolist() == [4, 0, 0, 1]
    found = spans(open_column(store, "s", "boxes", ["p0"]), rows)
    assert [span.tolist() for span in found] == [boxes[row] or [] for row in rows]
    assert open_column(store, "s", "boxes", ["p0"]).lengths.tolist() == [2, 0, 1, 0]


def test_ragged_images_are_taken_with_their_shapes(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    type_ = replace(IDS, dtype="uint8", shape=("H", "W", 3))
    images = [{"data": b"x" * 6, "shape": [1, 2, 3]}, None, {"data": b"y" * 3, "shape": [1, 1, 3]}]
    shape = pa.list_(pa.int32(), 3)
    array = pa.array(images, pa.struct([("data", pa.large_binary()), ("shape", shape)]))
    write_column(store, "k", "p0", type_, array)
    reader = open_column(store, "s", "k", ["p0"])
    assert reader.lengths.tolist() == [6, 0, 3]
    assert reader.take(np.array([2, 1, 0])).to_pylist() == images[::-1]


def test_scalars_are_all_rows_of_a_column_of_numbers(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    write_column(store, "keep", "p0", KEEPS, pa.array([True, False, None]))
    write_column(store, "ids", "p0", IDS, ids([[1]]))
    assert open_column(store, "s", "keep", ["p0"]).scalars().tolist() == [True, False, False]
    with pytest.raises(StoreError, match=r"T0508.*more than one number"):
        open_column(store, "s", "ids", ["p0"]).scalars()


def test_no_rows_have_the_shape_of_some(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    write_column(store, "ids", "p0", IDS, ids([[1]]))
    write_column(store, "images", "p0", IMAGES, tensors(np.ones((1, 3, 2, 3), np.uint8)))
    values, offsets = open_column(store, "s", "ids", ["p0"]).gather(np.array([], np.int64))
    assert (values.dtype, values.shape, offsets.tolist()) == (np.uint16, (0,), [0])
    images = open_column(store, "s", "images", ["p0"]).gather(np.array([], np.int64))
    assert isinstance(images, np.ndarray)
    assert images.shape == (0, 3, 2, 3)


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_out_of_range_is_refused(tmp_path: Path, row: int) -> None:
    store = Store.create(tmp_path)
    write_column(store, "k", "p0", IDS, ids([[1], [2]]))
    reader = open_column(store, "s", "k", ["p0"])
    for read in (reader.gather, reader.take):
        with pytest.raises(IndexError, match="of 2"):
            read(np.array([0, row]))


def test_a_column_that_is_not_built_names_what_it_lacks(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    write_column(store, "k", "p0", IDS, ids([[1]]))
    with pytest.raises(StoreError, match=r"T0507.*column s/k lacks 2 of 3 partitions, first p1"):
        open_column(store, "s", "k", ["p0", "p1", "p2"])


@pytest.mark.parametrize(
    "name", ["arrow", "lengths", "zarr/zarr.json", "zarr/c.0.0.0.0", "receipt"]
)
def test_a_truncated_or_missing_file_is_seen_on_opening(tmp_path: Path, name: str) -> None:
    store = Store.create(tmp_path)
    if name.startswith("zarr"):
        write_column(store, "k", "p0", IMAGES, tensors(np.ones((9, 3, 2, 3), np.uint8)))
    else:
        write_column(store, "k", "p0", IDS, ids([[1], [2, 3]]))
    path = store.path / store.file_name("s", "k", "p0", name)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StoreError) as caught:
        open_column(store, "s", "k", ["p0"])
    (problem,) = caught.value.problems
    assert problem.code == "T0504"
    assert str(path) in problem.message
    assert "build again" in problem.help
    if name != "receipt":
        assert (problem.column, problem.row) == ("s/k", "p0")
        path.unlink()
        with pytest.raises(StoreError, match=r"T0504.*0 bytes instead of"):
            open_column(store, "s", "k", ["p0"])


def test_an_offset_that_is_flipped_after_the_first_touch_is_no_address(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    write_column(store, "k", "p0", IDS, ids([[1, 2, 3]]))
    write_column(store, "k", "p1", IDS, ids([[5], [6, 7]]))
    path = store.path / store.file_name("s", "k", "p1", "arrow")
    content = path.read_bytes()
    offsets = np.array([0, 1, 3], np.int32).tobytes()
    assert content.count(offsets) == 1
    reader = open_column(store, "s", "k", ["p0", "p1"])
    assert [each.tolist() for each in spans(reader, np.array([0, 1]))] == [[1, 2, 3], [5]]
    with path.open("r+b") as file:  # in place: the mapping sees it
        file.write(content.replace(offsets, np.array([0, 1 << 30, 3], np.int32).tobytes()))
    with pytest.raises(StoreError, match=r"(?s)T0504.*p1\.arrow is damaged: row 1 .*row p1:1 "):
        reader.gather(np.array([0, 2]))


def test_a_column_of_many_partitions_needs_no_open_files(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    names = [f"p{i:02}" for i in range(40)]
    for number, name in enumerate(names):
        write_column(store, "k", name, IDS, ids([[number]]))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 10, limits[1]))
    try:
        readers = [open_column(store, "s", "k", names) for _ in range(2)]
        values = [reader.gather(np.arange(40))[0].tolist() for reader in readers]
        lengths = readers[0].lengths.tolist()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert values == [list(range(40))] * 2
    assert lengths == [1] * 40
