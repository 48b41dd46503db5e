"""Rows come from files and programs, are known by their content, and are named when they are wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from taskloom.graph.errors import SourceError
from taskloom.storage import batches, tabular
from taskloom.storage.source import SourceRecord, read_batches, register_source
from taskloom.storage.store import Store

from .columns import tree

ROWS = [
    {"id": i, "text": f"row {i}" if i % 7 else None, "score": i / 2, "tags": ["x"] * (i % 3)}
    for i in range(2500)
]
TABLE = pa.Table.from_pylist(ROWS)
FLAT = TABLE.select(["id", "text", "score"])


def write_arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


def write_jsonl(table: pa.Table, path: Path) -> None:
    lines = (json.dumps({k: v for k, v in r.items() if v is not None}) for r in table.to_pylist())
    path.write_text("\n".join(lines) + "\n\n")


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=700)


FILES: dict[str, tuple[Callable[[pa.Table, Path], None], pa.Table]] = {
    "a.parquet": (write_parquet, TABLE),
    "a.arrow": (write_arrow, TABLE),
    "a.arrows": (write_stream, TABLE),
    "a.jsonl": (write_jsonl, TABLE),
    "a.csv": (csv.write_csv, FLAT.set_column(1, "text", FLAT["text"].fill_null(""))),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.create(tmp_path / "store")


def read(store: Store, record: SourceRecord, columns: list[str] | None = None) -> pa.Table:
    """Return all rows of a source."""
    parts = [b for p in record.partitions for b in read_batches(store, record, p.id, columns)]
    return pa.Table.from_batches(parts)


@pytest.mark.parametrize("name", FILES)
def test_rows_of_a_file_come_back_in_partitions(store: Store, tmp_path: Path, name: str) -> None:
    write, table = FILES[name]
    write(table, tmp_path / name)
    record = register_source(store, "s", str(tmp_path / name), partition_rows=500)
    back = read(store, record)
    assert back.drop(["__split__"]).to_pylist() == table.to_pylist()
    assert set(back["__split__"].to_pylist()) == {0}
    assert record.num_rows == sum(p.rows for p in record.partitions) == 2500
    assert all(p.rows <= 500 for p in record.partitions) or name.endswith("csv")
    assert read(store, record, ["score", "id"]).column_names == ["score", "id", "__split__"]
    last = record.partitions[-1]
    bare = list(read_batches(store, record, last.id, []))
    assert {tuple(batch.column_names) for batch in bare} == {("__split__",)}
    assert sum(batch.num_rows for batch in bare) == last.rows


def test_all_kinds_of_files_give_one_source(store: Store, tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow", "a.jsonl"):
        FILES[name][0](TABLE, tmp_path / name)
    FILES["a.csv"][0](FLAT, tmp_path / "a.csv")
    record = register_source(store, "s", [str(tmp_path / "a.csv"), tmp_path / "a.[!c]*"])
    assert record.schema.names == ["id", "text", "score", "tags"]
    assert [Path(file.path).name for file in record.files] == [
        "a.csv",
        "a.arrow",
        "a.jsonl",
        "a.parquet",
    ]
    back = read(store, record)
    assert back["id"].to_pylist() == [*range(2500)] * 4
    assert back["tags"].to_pylist() == [None] * 2500 + TABLE["tags"].to_pylist() * 3


def test_captured_rows_come_back_and_are_written_once(store: Store) -> None:
    first = register_source(store, "s", iter(ROWS), partition_rows=1000)
    assert (first.num_new, first.num_kept) == (3, 0)
    assert read(store, first).drop(["__split__"]).equals(TABLE)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in store.path.rglob("*")}
    again = register_source(store, "s", lambda: (dict(row) for row in ROWS), partition_rows=1000)
    assert (again, again.num_new, again.num_kept) == (first, 0, 3)
    assert before == {
        path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in store.path.rglob("*")
    }


def test_only_partitions_whose_rows_changed_are_new(store: Store) -> None:
    first = register_source(store, "s", ROWS, partition_rows=1000)
    rows = [*ROWS]
    rows[1500] = {**ROWS[1500], "text": "edited"}
    edited = register_source(store, "s", [*rows, {"id": 9}], partition_rows=1000)
    kept = [old.id == new.id for old, new in zip(first.partitions, edited.partitions, strict=True)]
    assert kept == [True, False, False]
    assert (edited.num_new, edited.num_kept) == (2, 1)
    assert edited.digest != first.digest
    # A new column does not change the partitions that lack it; a change of type changes those that have it.
    wider = register_source(store, "s", [*rows, {"id": 9, "new": 1}], partition_rows=1000)
    assert [p.id for p in wider.partitions][:2] == [p.id for p in edited.partitions][:2]
    floats = register_source(store, "s", [*rows, {"id": 9.5}], partition_rows=1000)
    assert floats.num_new == 3
    assert read(store, floats)["id"].to_pylist() == [*map(float, range(2500)), 9.5]


def test_a_version_saves_reading_until_it_changes(store: Store) -> None:
    calls: list[int] = []

    def rows() -> Iterator[dict[str, int]]:
        calls.append(1)
        yield {"a": len(calls)}

    first = register_source(store, "s", rows, version="1")
    assert register_source(store, "s", rows, version="1") == first
    assert len(calls) == 1
    assert register_source(store, "s", rows, version="2").partitions != first.partitions
    assert register_source(store, "s", rows) != first
    assert len(calls) == 3


def test_splits_are_codes_in_every_record_batch(store: Store, tmp_path: Path) -> None:
    write_parquet(TABLE.slice(0, 10), tmp_path / "a.parquet")
    record = register_source(
        store, "s", {"test": ROWS[:3], "train": tmp_path / "a.parquet", "valid": lambda: ROWS[5:6]}
    )
    back = read(store, record)
    assert back["__split__"].to_pylist() == [0] * 10 + [1] + [2] * 3
    assert back["id"].to_pylist() == [*range(10), 5, 0, 1, 2]
    assert back.schema.field("__split__").type == pa.uint8()


def test_equal_rows_in_two_places_are_two_partitions(store: Store, tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_parquet(TABLE.slice(0, 10), tmp_path / name)
    paths = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    record = register_source(store, "s", {"train": paths, "test": paths[0]})
    assert len({partition.id for partition in record.partitions}) == 3
    assert read(store, record).num_rows == 30


def test_files_are_known_by_content_not_by_place_or_time(store: Store, tmp_path: Path) -> None:
    write_parquet(TABLE, tmp_path / "a.parquet")
    first = register_source(store, "s", str(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").rename(tmp_path / "moved.parquet")
    os.utime(tmp_path / "moved.parquet")
    moved = register_source(store, "s", str(tmp_path / "moved.parquet"))
    assert (moved, moved.num_new) == (first, 0)
    assert read(store, store.source("s")).num_rows == 2500
    write_parquet(TABLE.slice(1), tmp_path / "moved.parquet")
    assert register_source(store, "s", str(tmp_path / "moved.parquet")).num_new == 1


def test_an_untouched_file_is_not_read_again(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(TABLE, path)
    os.utime(path, (1e9, 1e9))
    first = register_source(store, "s", str(path))
    size = path.stat().st_size
    path.write_bytes(
        b"?" * size
    )  # what no honest program does: the same size and time, other content
    os.utime(path, (1e9, 1e9))
    assert register_source(store, "s", str(path)) == first
    os.utime(path, (1e9, 2e9))
    with pytest.raises(SourceError, match=r"T0408.*row 0 of .*a.jsonl is not JSON"):
        register_source(store, "s", str(path))


def test_a_file_just_written_is_read_again_whatever_its_time(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    first = register_source(store, "s", str(path))
    stat = path.stat()
    path.write_text("a\n2\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = register_source(store, "s", str(path))
    assert second.partitions != first.partitions
    assert read(store, second)["a"].to_pylist() == [2]


def test_a_file_that_changes_while_it_is_read_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(TABLE, path)
    record = register_source(store, "s", str(path), partition_rows=3000)
    reading = read_batches(store, record, record.partitions[0].id)
    next(reading)
    with path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(SourceError, match=r"(?s)T0406.*has changed since.*build again"):
        list(reading)
    with pytest.raises(SourceError, match=r"T0406"):
        next(read_batches(store, record, record.partitions[0].id))


def test_record_batches_are_small_in_rows_and_bytes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "READ_BYTES", 1 << 16)
    monkeypatch.setattr(tabular, "PARTITION_BYTES", 1 << 20)
    rows = [{"a": bytes(10_000), "b": i} for i in range(300)]
    captured = register_source(store, "captured", rows)
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write_arrow(pa.Table.from_pylist(rows), tmp_path / "a.arrow")
    files = register_source(store, "files", str(tmp_path / "a.*"))
    for record, copies in ((captured, 1), (files, 2)):
        parts = [list(read_batches(store, record, p.id)) for p in record.partitions]
        assert max(batch.num_rows for part in parts for batch in part) <= 7
        assert [v for part in parts for b in part for v in b["b"].to_pylist()] == [
            *range(300)
        ] * copies
    many = register_source(store, "many", ({"a": i} for i in range(5000)))
    (partition,) = many.partitions
    assert [b.num_rows for b in read_batches(store, many, partition.id)] == [1024] * 4 + [904]


def test_csv_types_widen_to_what_all_rows_hold(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f'{i},{i},,"line\n{i}",true' for i in range(700_000)]
    path.write_text("a,b,c,d,e\n" + "\n".join(lines) + '\n1.5,x,7,"quo""te",maybe\n')
    assert path.stat().st_size > 16 << 20  # types are inferred from the first 16 MB
    record = register_source(store, "s", str(path))
    types = {column.name: str(column.type) for column in record.schema}
    assert types == {"a": "double", "b": "string", "c": "int64", "d": "string", "e": "string"}
    *_, last = read_batches(store, record, record.partitions[0].id)
    *values, _ = last.slice(last.num_rows - 1).to_pylist()[0].values()
    assert values == [1.5, "x", 7, 'quo"te', "maybe"]
    assert record.num_rows == 700_001


def test_a_record_and_a_path_are_all_that_a_worker_needs(store: Store) -> None:
    record = register_source(store, "s", ROWS[:10])
    assert pickle.loads(pickle.dumps(record)) == record == store.source("s")
    code = """
import sys
from taskloom.storage.source import read_batches
from taskloom.storage.store import Store
store = Store.open(sys.argv[1])
record = store.source("s")
print(sum(b.num_rows for p in record.partitions for b in read_batches(store, record, p.id)))
print(*sorted({"torch", "zarr", "dask", "PIL", "polars"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", code, str(store.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "10\n\n"


def test_rows_without_any_value_are_rows(store: Store) -> None:
    record = register_source(store, "s", [{"a": None}, {}, {"a": None}], partition_rows=2)
    assert [(p.rows) for p in record.partitions] == [2, 1]
    assert read(store, record, ["a"])["a"].to_pylist() == [None] * 3


def test_equal_rows_are_equal_files_in_every_store(store: Store, tmp_path: Path) -> None:
    other = Store.create(tmp_path / "other")
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for where in (store, other):
        register_source(where, "s", [{"b": image, "a": 1}, {"a": 2.5, "b": image.T.copy().T}])
    assert tree(store.path) == tree(other.path)
