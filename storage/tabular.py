"""Parquet and Arrow IPC files as rows: scanned for their row groups once, read by ranges of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .batches import READ_BYTES, READ_ROWS
from .record import Range
from .unify import plain_type

PARTITION_BYTES: Final = 64 << 20
ARROW_MAGIC: Final = b"ARROW1"


def scan_parquet(path: Path, partition_rows: int) -> tuple[pa.Schema, list[Range]]:
    """Return the columns of ``path`` and the ranges of rows to partition it by."""
    with closing(pq.ParquetFile(path)) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
        return _plain_schema(file.schema_arrow), cut_ranges(sizes, partition_rows)


def read_parquet(
    path: Path, rows: Range, columns: Sequence[str], types: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of ``columns`` over ``rows``."""
    del types  # the file says them
    with closing(pq.ParquetFile(path)) as file:
        metadata = file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        first = int(np.searchsorted(starts, rows.start, side="right")) - 1
        last = int(np.searchsorted(starts, rows.start + rows.rows))
        num_bytes = sum(metadata.row_group(i).total_byte_size for i in range(first, last))
        mean = max(1, num_bytes // max(1, int(starts[last] - starts[first])))
        batches = file.iter_batches(
            batch_size=max(1, min(READ_ROWS, READ_BYTES // mean)),
            row_groups=list(range(first, last)),
            columns=list(columns),
            use_threads=False,
        )
        yield from _within(batches, rows.start - int(starts[first]), rows.rows)


def head_parquet(path: Path, num_rows: int) -> pa.Table:
    """Return the first rows of ``path``."""
    with closing(pq.ParquetFile(path)) as file:
        schema, known = _plain_schema(file.schema_arrow), file.metadata.num_rows
    rows = Range(0, min(num_rows, known))
    batches = read_parquet(path, rows, schema.names, {}) if rows.rows else iter(())
    return _head(batches, schema)


def scan_arrow(path: Path, partition_rows: int) -> tuple[pa.Schema, list[Range]]:
    """Return the columns of ``path``, an IPC file or stream, and the ranges of rows to partition it by."""
    with pa.memory_map(str(path)) as source:
        schema = _opener(path)(source).schema
    # Only the rows count, for which one column is enough.
    num_rows = sum(batch.num_rows for batch in _arrow_batches(path, schema.names[:1]))
    return _plain_schema(schema), cut_ranges([(num_rows, path.stat().st_size)], partition_rows)


def read_arrow(
    path: Path, rows: Range, columns: Sequence[str], types: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of ``columns`` over ``rows``."""
    del types  # the file says them
    yield from _within(_arrow_batches(path, columns), rows.start, rows.rows)


def head_arrow(path: Path, num_rows: int) -> pa.Table:
    """Return the first rows of ``path``, an IPC file or stream."""
    with pa.memory_map(str(path)) as source:
        schema = _plain_schema(_opener(path)(source).schema)
    return _head(read_arrow(path, Range(0, num_rows), schema.names, {}), schema)


def cut_ranges(groups: Sequence[tuple[int, int]], partition_rows: int) -> list[Range]:
    """Return ranges of at most ``partition_rows`` rows and about `PARTITION_BYTES`.

    Small row groups are joined and large ones divided evenly; no range holds part of a group and something
    else, because a group is decoded as a whole.

    Args:
        groups: Rows and bytes of each row group.
        partition_rows: Most rows in a range.
    """
    ranges: list[Range] = []
    start = held = held_bytes = 0
    for num_rows, num_bytes in groups:
        limit = max(1, min(partition_rows, PARTITION_BYTES * num_rows // max(1, num_bytes)))
        if held and (held + num_rows > partition_rows or held_bytes + num_bytes > PARTITION_BYTES):
            ranges.append(Range(start, held))
            start, held, held_bytes = start + held, 0, 0
        if num_rows <= limit:
            held, held_bytes = held + num_rows, held_bytes + num_bytes
            continue
        num_parts = -(-num_rows // limit)
        edges = [start + num_rows * i // num_parts for i in range(num_parts + 1)]
        ranges += [Range(a, b - a) for a, b in pairwise(edges)]
        start += num_rows
    return [*ranges, Range(start, held)] if held else ranges


def _head(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return ``batches`` as a table in the types of ``schema``."""
    pieces = list(batches)
    columns = (
        {
            name: pa.chunked_array([p.column(i) for p in pieces], pieces[0].schema.types[i])
            for i, name in enumerate(schema.names)
        }
        if pieces
        else {name: pa.array([], schema.field(name).type) for name in schema.names}
    )
    return pa.table(columns).cast(schema)


def _within(batches: Iterator[pa.RecordBatch], skip: int, rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        part = batch.slice(min(skip, batch.num_rows), rows)
        skip -= min(skip, batch.num_rows)
        rows -= part.num_rows
        if part.num_rows:
            yield part
        if not rows:
            return


def _arrow_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    opener = _opener(path)
    with pa.memory_map(str(path)) as source:
        schema = opener(source).schema
        source.seek(0)
        fields = [schema.get_field_index(name) for name in columns]
        reader = opener(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
        if isinstance(reader, pa.RecordBatchFileReader):
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)
        else:
            yield from reader


def _opener(path: Path) -> Any:
    with path.open("rb") as file:
        is_file = file.read(len(ARROW_MAGIC)) == ARROW_MAGIC
    return pa.ipc.open_file if is_file else pa.ipc.open_stream


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(field.name, plain_type(field.type)) for field in schema])
