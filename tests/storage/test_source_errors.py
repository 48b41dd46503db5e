"""Sources that cannot be used are named: their file, row and column, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskloom.graph.errors import SourceError, StoreError
from taskloom.storage.source import read_batches, register_source
from taskloom.storage.store import Store

ROWS = [{"id": i, "text": f"row {i}"} for i in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.create(tmp_path / "store")


def broken() -> Iterator[dict[str, int]]:
    yield {"a": 1}
    raise KeyError("b")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param([], r"T0404.*\"s\" has no rows.*generator that was used up", id="no rows"),
        pytest.param(iter(()), "T0404", id="used up"),
        pytest.param({"train": []}, "T0404", id="no rows in a split"),
        pytest.param(7, r"T0402.*\"s\" is a int, which gives no rows", id="number"),
        pytest.param({"tarin": [{"a": 1}]}, r'T0402.*"tarin" is no split.*did you mean train', id="split"),
        pytest.param({"a": 1}, r"T0402.*one row alone is given in a list", id="one row"),
        pytest.param([1, 2], r"T0408.*row 0 of \"s\" is a int", id="numbers"),
        pytest.param(broken, r"T0401.*raised KeyError at row 1: 'b'", id="raises"),
        pytest.param(
            [{"a": 1}] * 5 + [{"a": "x"}],
            r"T0405.*row 5 .*\"a\" holds string, and int64 before.*row s:5 .*column a",
            id="types",
        ),
        pytest.param(
            {"train": [{"a": 1}], "test": [{"a": "x"}]},
            r"T0405.*\"a\" is string in s\[test\], and int64 in s\[train\]",
            id="types of splits",
        ),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_named(store: Store, data: Any, message: str) -> None:
    with pytest.raises(SourceError, match=f"(?s){message}"):
        register_source(store, "s", data, partition_rows=2)
    assert store.sources() == ()


FILE_CASES = {
    "missing": ("b.csv", None, r"T0401.*there is no file .*b\.csv.*did you mean a\.csv"),
    "no match": ("*.tsv", None, r"T0401.*no file matches .*\*\.tsv"),
    "no folder": ("no/a.csv", None, r"T0401.*there is no folder .*/no"),
    "folder": ("store", None, r"T0402.*is a folder.*store/\*\.parquet"),
    "kind": ("a.xlsx", b"PK", r"T0402.*no known kind: \"\.xlsx\".*\.parquet"),
    "no Parquet": ("a.parquet", b"PAR1 no", r"T0401.*cannot read .*a\.parquet"),
    "no Arrow": ("a.arrow", b"ARROW1 no", r"T0401.*cannot read .*a\.arrow"),
    "no UTF-8": ("a.csv", b"a,b\n1,x\n2,\xff\n", r"T0408.*a\.csv: .*column #1.* invalid UTF8 data"),
    "short line": ("a.csv", b"a,b\n1,2\n3\n", r"T0408.*a\.csv.*Expected 2 columns, got 1.*row a\.csv:3"),
    "two names": ("a.csv", b"a,a\n1,2\n", r"T0407.*several columns called \"a\""),
    "reserved": ("a.csv", b"a,__split__\n1,2\n", r"T0407.*\"__split__\""),
    "empty": ("a.csv", b"", r"T0401|T0408"),
    "header": ("a.csv", b"a,b\n", r"T0404.*no rows"),
    "no JSON": ("a.jsonl", b'{"a": 1}\n{"a": 1\n', r"T0408.*row 1 of .*a\.jsonl is not JSON"),
    "JSON list": ("a.jsonl", b"[1]\n", r"T0408.*row 0 of \"a\.jsonl\" is a list"),
    "JSON types": (
        "a.jsonl",
        b'{"a": 1}\n' * 3000 + b'{"a": "x"}\n',
        r"T0405.*row 3000 of \"a\.jsonl\": column \"a\" holds string, and int64 before",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILE_CASES)
def test_files_that_cannot_be_used_are_named(store: Store, tmp_path: Path, case: str) -> None:
    name, content, message = FILE_CASES[case]
    (tmp_path / "a.csv").write_text("a\n1\n")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"(?s){message}"):
        register_source(store, "s", str(tmp_path / name))


def test_files_that_disagree_are_both_named(store: Store, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": ["1"]}), tmp_path / "b.parquet")
    message = r"T0405.*column \"x\" is string in .*b\.parquet, and int64 in .*a\.parquet"
    with pytest.raises(SourceError, match=message):
        register_source(store, "s", str(tmp_path / "*.parquet"))


def test_an_unknown_column_or_partition_is_named(store: Store) -> None:
    record = register_source(store, "s", ROWS)
    with pytest.raises(SourceError, match=r"(?s)T0403.*no column \"txt\".*did you mean text"):
        next(read_batches(store, record, record.partitions[0].id, ["txt"]))
    with pytest.raises(StoreError, match=r"(?s)T0507.*no partition 0000.*build again"):
        next(read_batches(store, record, "0000"))


def test_damaged_captured_rows_are_refused(store: Store) -> None:
    record = register_source(store, "s", ROWS)
    (path,) = (store.path / "sources" / "s").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"T0504.*bytes instead of"):
        next(read_batches(store, record, record.partitions[0].id))
    assert register_source(store, "s", ROWS) == record
    assert next(read_batches(store, record, record.partitions[0].id)).num_rows == 5
