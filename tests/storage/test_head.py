"""The head of data is its first rows, from any kind of file, without a scan of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.feather as pa_feather
import pyarrow.parquet as pa_parquet
import pytest

from taskloom.graph.errors import SourceError
from taskloom.storage.head import read_head
from taskloom.storage.record import SPLIT_COLUMN

ROWS = [{"n": i, "text": f"row {i}", "maybe": None if i % 2 else i / 2} for i in range(2500)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(rows)
    match path.suffix:
        case ".parquet":
            pa_parquet.write_table(table, path, row_group_size=700)
        case ".arrow":
            pa_feather.write_feather(table, str(path), chunksize=700, compression="uncompressed")
        case ".csv":
            pa_csv.write_csv(table, path)
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(data: Any, num_rows: int) -> list[dict[str, Any]]:
    return read_head(data, num_rows).to_pylist()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".jsonl"])
@pytest.mark.parametrize("num_rows", [0, 1, 699, 701, 1500, 9000])
def test_the_head_of_a_file_is_its_first_rows(suffix: str, num_rows: int, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows{suffix}", ROWS)
    assert read(path, num_rows) == [row | {SPLIT_COLUMN: 0} for row in ROWS[:num_rows]]


def test_files_follow_one_another_and_splits_are_told(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.parquet", ROWS[10 * i : 10 * i + 10]) for i in range(3)]
    assert [row["n"] for row in read([str(path) for path in paths], 25)] == [*range(25)]
    splits = read({"train": [str(paths[0])], "test": ROWS[:5]}, 12)
    assert [row[SPLIT_COLUMN] for row in splits] == [0] * 10 + [2] * 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_is_damaged_further_on_does_not_matter(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows{suffix}", ROWS * (400 if suffix == ".csv" else 2))
    with path.open("ab") as file:
        file.write(b"\x00{,,,,,\n")
    assert len(read(path, 3)) == 3


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(SourceError, match=r"T0401.*rows\.parquet"):
        read(path, 3)
    with pytest.raises(SourceError, match="T0402"):
        read(7, 3)
