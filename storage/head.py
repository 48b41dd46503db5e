"""The first rows of data, as a program or files give them, without a store.

No more is read than is needed: types are those of the rows that are read, and may be wider further on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from .capture import iterate_rows, join_tables
from .formats import FORMATS, blaming, by_split, find_files, is_files
from .record import SPLIT_COLUMN
from .values import to_table


def read_head(data: Any, num_rows: int, *, name: str = "rows") -> pa.Table:
    """Return the first rows of ``data`` with the split of each, in `SPLIT_COLUMN`.

    An iterator is used up as far as it is read.

    Args:
        data: Files, rows, a function that gives rows, or any of these by split, as for a source.
        num_rows: Most rows to return.
        name: What the rows are called in messages.

    Raises:
        SourceError: A file cannot be read, or rows do not agree.
    """
    tables: list[pa.Table] = []
    for split, part in by_split(name, data):
        for table in _read(part, num_rows, name):
            splits = np.full(table.num_rows, split or 0, np.uint8)
            tables.append(table.append_column(SPLIT_COLUMN, pa.array(splits)))
            num_rows -= table.num_rows
        if num_rows <= 0:
            break
    if not tables:
        return pa.table({SPLIT_COLUMN: pa.array([], pa.uint8())})
    return pa.concat_tables(tables, promote_options="permissive")


def _read(data: Any, num_rows: int, name: str) -> Iterator[pa.Table]:
    if not is_files(data):
        yield _read_rows(data, num_rows, name)
        return
    for file, kind in find_files(data):
        if num_rows <= 0:
            return
        with file.whole() as path, blaming(file.name):
            table = FORMATS[kind].head(path, num_rows)
        num_rows -= table.num_rows
        yield table


def _read_rows(data: Any, num_rows: int, name: str) -> pa.Table:
    rows: list[Any] = []
    tables: list[pa.Table] = []
    for item in iterate_rows(data, name, num_rows) if num_rows > 0 else ():
        if isinstance(item, pa.Table):
            tables.append(item.slice(0, num_rows))
            num_rows -= item.num_rows
        else:
            rows.append(item)
            num_rows -= 1
        if num_rows <= 0:
            break
    return join_tables(tables, name, 0) if tables else to_table(rows, name=name)
