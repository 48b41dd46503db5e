"""Frames of other libraries are sources: the same rows are the same partitions, whatever holds them."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import dask.dataframe
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import SourceError
from taskloom.storage.head import read_head
from taskloom.storage.record import SourceRecord
from taskloom.storage.source import read_batches, register_source
from taskloom.storage.store import Store

ROWS = [
    {"id": i, "text": f"row {i}" if i % 7 else None, "score": i / 2, "tags": ["x"] * (i % 3)}
    for i in range(2500)
]
TABLE = pa.Table.from_pylist(ROWS)


def as_dataset(table: pa.Table, folder: Path) -> Any:
    pq.write_table(table, folder / "rows.parquet", row_group_size=700)
    return pyarrow.dataset.dataset(folder / "rows.parquet")


def as_pandas(table: pa.Table, folder: Path) -> Any:
    del folder
    frame = table.select(["id", "text", "score"]).to_pandas()
    return frame.assign(tags=[list(tags) for tags in table["tags"].to_pylist()])


def as_dask(table: pa.Table, folder: Path) -> Any:
    # Dask makes text of lists, unless it is told not to.
    with dask.config.set({"dataframe.convert-string": False}):
        return dask.dataframe.from_pandas(as_pandas(table, folder), npartitions=3)


MAKERS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "pyarrow table": lambda table, _: table,
    "pyarrow record batch": lambda table, _: table.combine_chunks().to_batches()[0],
    "pyarrow reader": lambda table, _: table.to_reader(max_chunksize=300),
    "pyarrow dataset": as_dataset,
    "polars frame": lambda table, _: pl.DataFrame(table),
    "polars lazy frame": lambda table, _: pl.LazyFrame(pl.DataFrame(table)),
    "pandas frame": as_pandas,
    "dask frame": as_dask,
    "function": lambda table, _: lambda: pl.DataFrame(table),
    "record batches": lambda table, _: iter(table.to_batches(max_chunksize=77)),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.create(tmp_path / "store")


def read(store: Store, record: SourceRecord) -> pa.Table:
    parts = [batch for p in record.partitions for batch in read_batches(store, record, p.id)]
    return pa.Table.from_batches(parts).drop(["__split__"])


@pytest.mark.parametrize("kind", MAKERS)
def test_every_frame_gives_the_partitions_of_its_rows(
    kind: str, store: Store, tmp_path: Path
) -> None:
    expected = register_source(store, "rows", ROWS, partition_rows=1000)
    record = register_source(store, "frame", MAKERS[kind](TABLE, tmp_path), partition_rows=1000)
    assert record.partitions == expected.partitions
    assert read(store, record).equals(TABLE)
    again = register_source(store, "frame", MAKERS[kind](TABLE, tmp_path), partition_rows=1000)
    assert again.num_new == 0


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("num_rows", [0, 1, 301, 9000])
def test_the_head_of_a_frame_is_its_first_rows(kind: str, num_rows: int, tmp_path: Path) -> None:
    head = read_head(MAKERS[kind](TABLE, tmp_path), num_rows)
    assert head.to_pylist() == [row | {"__split__": 0} for row in ROWS[:num_rows]]


def test_appended_rows_leave_full_partitions_as_they_are(store: Store) -> None:
    first = register_source(store, "s", pl.DataFrame(TABLE.slice(0, 2000)), partition_rows=1000)
    grown = register_source(store, "s", pl.DataFrame(TABLE), partition_rows=1000)
    assert (grown.num_new, grown.num_kept) == (1, 2)
    assert grown.partitions[:2] == first.partitions


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_chunks_slices_and_what_lies_under_nulls_change_nothing(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    count = data.draw(st.integers(1, 60))
    rows = [
        {
            "n": data.draw(st.none() | st.integers(-9, 9)),
            "b": data.draw(st.none() | st.booleans()),
            "s": data.draw(st.none() | st.text("abc", max_size=3)),
            "l": data.draw(st.none() | st.lists(st.none() | st.text("ab", max_size=2), max_size=2)),
        }
        for _ in range(count)
    ]
    types = pa.schema(
        {"n": pa.int64(), "b": pa.bool_(), "s": pa.string(), "l": pa.list_(pa.string())}
    )
    table = pa.Table.from_pylist(rows, types)
    noise = pa.table({"n": [7] * 5, "b": [True] * 5, "s": ["?"] * 5, "l": [["?"]] * 5}, types)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    parts = [
        # Each part lies in the middle of other rows, and has other values under its nulls.
        pa.concat_tables([noise, hide(table.slice(a, b - a)), noise])
        .combine_chunks()
        .slice(5, b - a)
        for a, b in zip([0, *cuts], [*cuts, count], strict=True)
    ]
    store = Store.create(tmp_path_factory.mktemp("store"))
    whole = register_source(store, "s", table, partition_rows=13)
    cut = register_source(store, "s", pa.concat_tables(parts), partition_rows=13)
    assert cut.num_new == 0
    assert cut == whole
    assert read(store, cut).to_pylist() == rows


def hide(table: pa.Table) -> pa.Table:
    """Return equal rows that have values under their nulls."""
    columns: list[Any] = []
    for column in table.columns:
        array: Any = column.combine_chunks()
        if pa.types.is_list(array.type) or not array.null_count:
            columns.append(array)
            continue
        filled: Any = pc.fill_null(array, {pa.int64(): 5, pa.bool_(): True}.get(array.type, "zz"))
        mask = array.is_valid().buffers()[1]
        columns.append(pa.Array.from_buffers(array.type, len(array), [mask, *filled.buffers()[1:]]))
    return pa.table(columns, schema=table.schema)


def test_types_of_a_library_become_plain(store: Store) -> None:
    frame = pl.DataFrame(
        {
            "kind": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "choice": pl.Series(["a", "b", "a"], dtype=pl.Enum(["a", "b"])),
            "small": pl.Series([1, 2, 3], dtype=pl.Int8),
            "box": pl.Series([[1, 2], [3, 4], None], dtype=pl.Array(pl.Int16, 2)),
            "nested": [{"x": "u", "y": ["v"]}] * 3,
            "object": pl.Series([np.zeros(2, np.uint8), None, b"x"], dtype=pl.Object),
        }
    )
    record = register_source(store, "s", frame)
    assert {column.name: str(column.type) for column in record.schema} == {
        "kind": "string",
        "choice": "string",
        "small": "int8",
        "box": "fixed_size_list<item: int16>[2]",
        "nested": "struct<x: string, y: list<item: string>>",
        "object": "binary",
    }
    rows = read(store, record).to_pylist()
    assert [row["kind"] for row in rows] == ["a", "b", None]
    assert rows[0]["object"].startswith(b"\x93NUMPY")
    assert rows[0]["nested"] == {"x": "u", "y": ["v"]}


def test_arrays_in_a_frame_are_the_bytes_that_they_are_in_rows(store: Store) -> None:
    pixels = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]
    rows = register_source(store, "rows", [{"image": each} for each in pixels])
    held = pd.DataFrame({"image": pixels})
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(pixels))
    for frame in (held, pa.table({"image": tensor})):
        assert register_source(store, "frame", frame).partitions == rows.partitions


def test_an_index_of_pandas_is_a_column_if_it_has_a_name(store: Store) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3]}, index=pd.Index([7, 8, 9], name="id"))
    assert register_source(store, "named", frame).schema.names == ["id", "a"]
    assert register_source(
        store, "bare", frame[frame.a > 1].reset_index(drop=True)[1:]
    ).schema.names == ["a"]
    missing = pd.DataFrame({"a": [1.0, np.nan], "b": ["x", np.nan], "c": [None, {"k": 1}]})
    assert read(store, register_source(store, "missing", missing)).to_pylist() == [
        {"a": 1.0, "b": "x", "c": None},
        {"a": None, "b": None, "c": {"k": 1}},
    ]


def test_a_type_that_shows_late_widens_its_column(store: Store) -> None:
    frame = pd.DataFrame({"a": pd.Series([1] * 1500 + [None, 2.5], dtype=object)})
    record = register_source(store, "s", frame)
    assert str(record.schema.field("a").type) == "double"
    assert read(store, record)["a"].to_pylist()[-3:] == [1.0, None, 2.5]


class Unknown:
    """Rows of no kind."""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            Unknown(),
            r"T0402.*is a Unknown, which gives no rows(?s:.*)dask\.dataframe",
            id="unknown",
        ),
        pytest.param(
            pl.Series([1, 2]),
            "T0402.*is a Series, which gives values without names",
            id="values",
        ),
        pytest.param(TABLE.slice(0, 0), "T0404", id="no rows"),
        pytest.param(
            pd.DataFrame({0: [1]}), r"T0407.*has a column called 0", id="name that is a number"
        ),
        pytest.param(
            pa.table([pa.array([1])] * 2, ["a", "a"]),
            "(?s)T0407.*each given once",
            id="one name twice",
        ),
        pytest.param(
            pd.DataFrame({"a": [1] * 2000 + [Unknown()]}),
            r'T0405.*row 2000 of "s": column "a" holds a Unknown',
            id="a value without a form",
        ),
        pytest.param(
            [TABLE, {"id": 1}], "T0408.*gives tables, and then a dict", id="tables and rows"
        ),
        pytest.param([{"id": 1}, TABLE], "T0408.*row 1 .* is a Table", id="rows and tables"),
        pytest.param(
            lambda: iter([TABLE.slice(0, 3), pa.table({"id": ["x"]})]),
            r'T0405.*row 3 of "s": column "id" holds string, and int64 before',
            id="tables that do not agree",
        ),
        pytest.param(
            pl.LazyFrame({"a": ["1", "x"]}).select(pl.col("a").cast(pl.Int64)),
            r"T0401.*raised InvalidOperationError at row 0",
            id="a query that fails",
        ),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(store: Store, data: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        register_source(store, "s", data)


def test_a_stream_larger_than_a_partition_is_never_held_whole(store: Store) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        for i in range(100):
            yield pa.record_batch({"a": [bytes([i]) * 10_000] * 100})

    register_source(store, "warm", pa.table({"a": [b"x"]}))
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    peaks: list[int] = []

    def watched() -> Iterator[pa.RecordBatch]:
        for batch in batches():
            peaks.append(pa.total_allocated_bytes() - before)
            yield batch

    tracemalloc.start()
    try:
        record = register_source(store, "s", watched(), partition_rows=500)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert record.num_rows == 10_000
    assert max(peaks) < 20e6  # of 100e6
    assert peak < 20e6


def test_no_library_is_imported_for_rows_that_are_not_its_own(tmp_path: Path) -> None:
    code = """
import sys
import pyarrow as pa
from taskloom.storage.source import register_source
from taskloom.storage.store import Store
register_source(Store.create(sys.argv[1]), "s", pa.table({"a": [1]}))
print(*sorted({"polars", "dask", "datasets", "torch", "PIL"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
