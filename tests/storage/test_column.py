"""What is written to a column comes back, and its bytes depend on its rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings

from taskloom.graph.errors import StoreError
from taskloom.graph.type import Type
from taskloom.storage import arrow_file, zarr_file
from taskloom.storage.column import discard, open_writer, read_receipt
from taskloom.storage.reader import open_column
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
    tree,
    write_column,
)

ARROW_TYPES = {
    IDS: pa.list_(pa.uint16()),
    BOXES: pa.list_(pa.list_(pa.float32(), 4)),
    TEXTS: pa.string(),
    SPLITS: pa.uint8(),
    KEEPS: pa.bool_(),
}
VALUES: dict[Type, st.SearchStrategy[Any]] = {
    IDS: st.lists(st.integers(0, 65_535), max_size=5),
    BOXES: st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), max_size=2),
    TEXTS: st.text(max_size=5),
    SPLITS: st.integers(0, 2),
    KEEPS: st.booleans(),
}


@st.composite
def columns(draw: st.DrawFn) -> tuple[Type, pa.Array, list[int]]:
    """Draw a type, rows of it with nulls, and where to cut them into calls of write."""
    type_ = draw(st.sampled_from(list(VALUES)))
    rows = draw(st.lists(st.none() | VALUES[type_], max_size=40))
    cuts = draw(st.lists(st.integers(0, len(rows)), max_size=4).map(sorted))
    return type_, pa.array(rows, ARROW_TYPES[type_]), cuts


def pieces(array: Any, cuts: Sequence[int]) -> list[Any]:
    edges = [0, *cuts, len(array)]
    return [array.slice(a, b - a) for a, b in pairwise(edges)]


@given(columns())
@settings(max_examples=60)
def test_arrow_rows_come_back_whatever_the_calls(case: tuple[Type, pa.Array, list[int]]) -> None:
    type_, array, cuts = case
    with memory_folder() as folder:
        store = Store.create(folder)
        receipt = write_column(store, "k", "p0", type_, *pieces(array, cuts))
        assert (receipt.rows, receipt.nulls) == (len(array), array.null_count)
        reader = open_column(store, "s", "k", ["p0"])
        back = reader.take(np.arange(len(array)))
        assert back.equals(array) or str(back) == str(array)  # NaN is not equal to itself
        assert reader.valid.tolist() == array.is_valid().to_pylist()


@given(columns(), st.data())
@settings(max_examples=40)
def test_bytes_do_not_depend_on_calls_slices_or_what_nulls_hide(
    case: tuple[Type, pa.Array, list[int]], data: st.DataObject
) -> None:
    type_, array, cuts = case
    hidden = pa.array(
        [data.draw(VALUES[type_]) if v is None else v for v in array.to_pylist()], array.type
    )
    mask = pa.array(array.is_null().to_pylist(), pa.bool_())
    masked = hidden if not len(array) else hide(hidden, mask)
    shifted = pa.concat_arrays([masked.slice(0, 1), masked]).slice(min(1, len(masked)))
    with memory_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow_file, "BATCH_ROWS", 7)
        one, other = Store.create(f"{folder}/1"), Store.create(f"{folder}/2")
        write_column(one, "k", "p0", type_, array)
        write_column(other, "k", "p0", type_, *pieces(shifted, cuts))
        assert tree(one.path) == tree(other.path)


def hide(values: Any, mask: pa.Array) -> Any:
    """Return ``values``, null where ``mask``, with the values still lying below."""
    bits = np.packbits(~np.array(mask.to_pylist(), np.bool_), bitorder="little").tobytes()
    buffers = [pa.py_buffer(bits), *values.buffers()[1:]]
    if not pa.types.is_list(values.type):
        return pa.Array.from_buffers(values.type, len(values), buffers)
    return pa.Array.from_buffers(values.type, len(values), buffers[:2], children=[values.values])


@given(
    st.integers(0, 40).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.integers(0, n), max_size=4).map(sorted), st.integers(0, 99)
        )
    ),
    st.sampled_from(["uint8", "float32", "int64", "bool", "float16"]),
    st.integers(1, 9),
    st.integers(1, 3),
)
@settings(max_examples=40)
def test_dense_rows_come_back_through_zarr_whatever_the_calls(
    case: tuple[int, list[int], int], dtype: str, chunk_rows: int, shard_chunks: int
) -> None:
    num_rows, cuts, seed = case
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 99, (num_rows, 3, 2)).astype(dtype)
    valid = rng.random(num_rows) < 0.8
    row_bytes = values[:1].nbytes or 6 * values.dtype.itemsize
    expected = np.where(valid[:, None, None], values, np.zeros((), dtype))
    array = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.from_numpy_dtype(values.dtype), (3, 2)),
        pa.array(
            [v.ravel().tolist() if k else None for v, k in zip(values, valid, strict=True)],
            pa.list_(pa.from_numpy_dtype(values.dtype), 6),
        ),
    )
    with memory_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_file, "CHUNK_BYTES", chunk_rows * row_bytes)
        patch.setattr(zarr_file, "SHARD_BYTES", shard_chunks * chunk_rows * row_bytes)
        store = Store.create(folder)
        type_ = replace(IMAGES, dtype=dtype, shape=(3, 2))
        write_column(store, "k", "p0", type_, *pieces(array, cuts))
        opened: Any = zarr.open_array(
            store.path / store.file_name("s", "k", "p0", "zarr"), mode="r"
        )
        assert opened.dtype == values.dtype
        np.testing.assert_array_equal(opened[:], expected)
        reader = open_column(store, "s", "k", ["p0"])
        rows = rng.permutation(num_rows)
        np.testing.assert_array_equal(reader.gather(rows), expected[rows])
        assert reader.valid.tolist() == valid.tolist()
        assert reader.lengths.tolist() == valid.tolist()


def test_a_partition_larger_than_64_mb_has_several_shards_of_1_mb_chunks() -> None:
    values = np.arange(66 << 18, dtype=np.uint32).view(np.uint8).reshape(66, 1024, 1024)
    with memory_folder() as folder:
        store = Store.create(folder)
        type_ = replace(IMAGES, shape=(1024, 1024))
        receipt = write_column(store, "k", "p0", type_, tensors(values[:3]), tensors(values[3:]))
        shards = [file for file in receipt.files if file.name.startswith("zarr/c.")]
        assert [len(file.blocks) for file in shards] == [64, 2]
        opened: Any = zarr.open_array(
            store.path / store.file_name("s", "k", "p0", "zarr"), mode="r"
        )
        np.testing.assert_array_equal(opened[62:66], values[62:])


def test_an_arrow_column_is_an_ipc_file_of_large_record_batches(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    small = ids([[1]] * 100_000)
    large = pa.array([b"x" * (1 << 20)] * 40)
    write_column(store, "ids", "p0", IDS, *(small.slice(i, 1000) for i in range(0, 100_000, 1000)))
    write_column(store, "bytes", "p0", replace(TEXTS, dtype="binary"), large)
    expected = {"ids": [65_536, 34_464], "bytes": [16, 16, 8]}
    for key, sizes in expected.items():
        with pa.ipc.open_file(store.path / store.file_name("s", key, "p0", "arrow")) as file:
            batches = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
        receipt = read_receipt(store, "s", key, "p0")
        assert receipt is not None
        assert batches == sizes == [block.rows for block in receipt.files[0].blocks]


@pytest.mark.parametrize(
    ("type_", "array", "message"),
    [
        pytest.param(
            IDS, pa.array([[1]]), "values are list<item: int64>.* of list<item: uint16>", id="ids"
        ),
        pytest.param(IMAGES, tensors(np.zeros((2, 3, 3, 3), np.uint8)), r"\[3, 3, 3\]", id="shape"),
        pytest.param(
            IMAGES, tensors(np.zeros((2, 3, 2, 3))), "float64 instead of uint8", id="dtype"
        ),
        pytest.param(IMAGES, pa.array([1, 2]), r"rows have shape \[\] instead", id="scalars"),
    ],
)
def test_values_of_another_type_are_refused(
    tmp_path: Path, type_: Type, array: Any, message: str
) -> None:
    store = Store.create(tmp_path)
    refusal = pytest.raises(StoreError, match=f"T0508.*column s/k, partition p0.*{message}")
    with open_writer(store, "s", "k", "p0", type_) as writer, refusal:
        writer.write(array)
    assert [path.name for path in (store.path / store.column_folder("s", "k")).iterdir()] == []


def test_a_column_without_a_promised_type_takes_that_of_its_values(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    for dtype in ("any", "list<item: struct<a: int64>>"):
        array = pa.array([[{"a": 1}], None, []])
        write_column(store, f"k{len(dtype)}", "p0", replace(TEXTS, dtype=dtype), array)
        reader = open_column(store, "s", f"k{len(dtype)}", ["p0"])
        assert reader.take(np.array([2, 1, 0])).equals(array.take(pa.array([2, 1, 0])))
        with pytest.raises(StoreError, match=r"(?s)T0508.*use take"):
            reader.gather(np.array([0]))


def test_only_a_commit_makes_a_partition(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with open_writer(store, "s", "k", "p0", IDS) as writer:
        writer.write(ids([[1]]))
    assert store.missing("s", "k", ["p0"]) == ("p0",)
    assert tree(store.path) == {"store.json": (tmp_path / "store.json").read_bytes()}


@pytest.mark.parametrize(
    ("type_", "array"),
    [(IDS, ids([[1, 2], None])), (IMAGES, tensors(np.ones((2, 3, 2, 3), np.uint8)))],
)
def test_a_second_commit_keeps_the_first_and_leftovers_give_way(
    tmp_path: Path, type_: Type, array: Any
) -> None:
    store = Store.create(tmp_path)
    first = write_column(store, "k", "p0", type_, array)
    before = tree(store.path)
    assert write_column(store, "k", "p0", type_, array.slice(0, 1)) == first
    assert tree(store.path) == before
    (store.path / store.file_name("s", "k", "p0", "receipt")).unlink()
    for path in (store.path / store.column_folder("s", "k")).rglob("*.*"):
        if path.is_file():
            path.write_bytes(b"half")
    write_column(store, "k", "p0", type_, array)
    assert tree(store.path) == before


def test_a_discarded_partition_is_gone_and_can_be_made_again(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    write_column(store, "k", "p0", IMAGES, tensors(np.ones((2, 3, 2, 3), np.uint8)))
    write_column(store, "k", "p1", IMAGES, tensors(np.ones((2, 3, 2, 3), np.uint8)))
    before = tree(store.path)
    discard(store, "s", "k", "p0")
    assert store.committed("s", "k") == {"p1"}
    assert not [path for path in tree(store.path) if "p0" in path]
    write_column(store, "k", "p0", IMAGES, tensors(np.ones((2, 3, 2, 3), np.uint8)))
    assert tree(store.path) == before


def test_receipts_hold_versions_and_what_the_writer_adds(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with open_writer(store, "s", "k", "p0", replace(IDS, rows="s")) as writer:
        writer.write(ids([[1], None]))
        receipt = writer.commit(extra={"pillow": "13"})
    assert receipt == read_receipt(store, "s", "k", "p0")
    assert receipt.libraries == {"numpy": np.__version__, "pyarrow": pa.__version__}
    assert receipt.extra == {"pillow": "13"}
    assert receipt.type == "text<uint16[T] ragged>@host"
    assert receipt.bytes == sum(
        len(content)
        for name, content in tree(store.path / store.column_folder("s", "k")).items()
        if "receipt" not in name
    )
