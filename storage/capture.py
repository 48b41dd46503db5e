"""Capturing: rows that only a program can give are streamed once into Arrow files of the store.

A file is named after its content, so capturing equal rows again writes nothing. Where files end depends on the
rows alone, not on the batches in which they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from ..graph.errors import SourceError, TaskloomError
from .batches import cut_points, row_bytes, small_batches
from .files import digest_bytes
from .folder import Folder
from .frame import ACCEPTED, is_frame, read_frame
from .record import ID_LENGTH, SourceFile
from .tabular import PARTITION_BYTES
from .unify import unify_types
from .values import canonical_row, cast_column, conflict, make_table, weigh


def capture_rows(
    data: Any,
    folder: Folder,
    directory: str,
    *,
    name: str,
    split: int | None,
    partition_rows: int,
) -> tuple[list[tuple[SourceFile, int]], pa.Schema]:
    """Write the rows of ``data`` below ``directory``.

    Args:
        data: A frame, an iterable of mappings or of tables, or a function that returns one of these.
        folder: That of the store.
        directory: That of the source, in ``folder``.
        name: What the rows are called in messages.
        split: Position of their split, if the source is given by split.
        partition_rows: Most rows in a file.

    Returns:
        The files in order with the rows in each, and the columns in order of first appearance.

    Raises:
        SourceError: ``data`` gives no rows, raises, or its rows do not agree.
        StoreError: The store cannot be written.
    """
    files: list[tuple[SourceFile, int]] = []
    types: dict[str, pa.DataType] = {}
    first = 0
    for table in _pieces(iterate_rows(data, name), name, partition_rows):
        _widen(types, table, name, first)
        files.append((_store(table, folder, directory, split), table.num_rows))
        first += table.num_rows
    return files, pa.schema(list(types.items()))


def encode_table(table: pa.Table) -> pa.Buffer:
    """Return ``table`` as an Arrow IPC file that depends on its values alone.

    Columns are in order of name, and those without any value are left out.
    """
    names = sorted(n for n in table.column_names if table[n].null_count < table.num_rows)
    sink = pa.BufferOutputStream()
    kept = table.select(names)
    with pa.ipc.new_file(sink, kept.schema) as writer:
        for batch in kept.to_batches() if names else []:
            for small in small_batches(batch):
                writer.write_batch(small)
    return sink.getvalue()


def iterate_rows(data: Any, name: str, num_rows: int | None = None) -> Iterator[Any]:
    """Yield the rows of an iterable, or of what a function returns, as they are; those of frames as tables.

    Args:
        data: A frame, an iterable of mappings or of frames, or a function that returns one of these.
        name: What it is called in messages.
        num_rows: Most rows that will be taken: more need not be computed.

    Raises:
        SourceError: ``data`` gives no rows, or raises.
    """
    try:
        given: Any = data() if callable(data) and not is_frame(data) else data
        items = iter([given] if is_frame(given) else given)
    except TypeError as error:
        message = f'source "{name}" is a {type(data).__name__}, which gives no rows: {error}'
        raise SourceError.of("T0402", message, f"give {ACCEPTED}") from error
    number = 0
    try:
        for item in items:
            if isinstance(item, Mapping) or not is_frame(item):
                yield item
                number += 1
                continue
            for table in read_frame(item, name, first=number, num_rows=num_rows):
                yield table
                number += table.num_rows
    except TaskloomError:
        raise
    except Exception as error:
        message = f'source "{name}" raised {type(error).__name__} at row {number}: {error}'
        raise SourceError.of("T0401", message).at(row=f"{name}:{number}") from error


def join_tables(tables: Sequence[pa.Table], name: str, first: int) -> pa.Table:
    """Return ``tables`` as one, whose bytes depend on the values alone.

    Args:
        tables: Parts of a source, one after the other.
        name: What it is called in messages.
        first: Number of the first row in messages.

    Raises:
        SourceError: The types of a column have nothing in common.
    """
    types: dict[str, pa.DataType] = {}
    number = first
    for table in tables:
        _widen(types, table, name, number)
        number += table.num_rows
    columns: dict[str, list[Any]] = {column: [] for column in types}
    number = first
    for table in tables:
        for column, type_ in types.items():
            columns[column] += _chunks(table, column, type_, name, number)
        number += table.num_rows
    if not types:
        return pa.table({"": pa.nulls(number - first)}).select([])
    # Taking copies: what lies under nulls, and beside the rows in bits and bytes, is left behind.
    rows = pa.array(np.arange(number - first))
    joined = {column: pa.chunked_array(parts, types[column]) for column, parts in columns.items()}
    return pa.table({c: parts.combine_chunks().take(rows) for c, parts in joined.items()})


def _chunks(table: pa.Table, column: str, type_: pa.DataType, name: str, first: int) -> list[Any]:
    if column not in table.column_names:
        return [pa.nulls(table.num_rows, type_)]
    return cast_column(table.column(column), type_, column, name, first).chunks


def _widen(types: dict[str, pa.DataType], table: pa.Table, name: str, first: int) -> None:
    """Make ``types`` hold the columns of ``table`` too, the first of whose rows is number ``first``."""
    for field in table.schema:
        before = types.get(field.name, pa.null())
        united = unify_types(before, field.type)
        if united is None:
            row = first + max(0, table.column(field.name).is_valid().index(value=True).as_py())
            raise conflict(name, row, field.name, field.type, before)
        types[field.name] = united


def _store(table: pa.Table, folder: Folder, directory: str, split: int | None) -> SourceFile:
    content = encode_table(table)
    digest = digest_bytes(memoryview(content))
    name = f"{digest[:ID_LENGTH]}.arrow"
    if folder.size(f"{directory}/{name}") != content.size:
        folder.write(f"{directory}/{name}", memoryview(content))
    return SourceFile(
        path=name,
        kind="arrow",
        bytes=content.size,
        mtime_ns=0,
        digest=digest,
        schema=pa.ipc.open_file(content).schema,
        split=split,
    )


def _pieces(items: Iterator[Any], name: str, partition_rows: int) -> Iterator[pa.Table]:
    """Yield what ``items``, all of them rows or all of them tables, are cut into."""
    for item in items:
        every = chain([item], items)
        yield from (_cut_tables if isinstance(item, pa.Table) else _cut_rows)(
            every, name, partition_rows
        )


def _cut_rows(rows: Iterator[Any], name: str, partition_rows: int) -> Iterator[pa.Table]:
    piece: list[dict[str, Any]] = []
    weight = first = 0
    for number, row in enumerate(rows):
        piece.append(canonical_row(row, name, number))
        weight += weigh(piece[-1])
        if len(piece) == partition_rows or weight >= PARTITION_BYTES:
            yield make_table(piece, name, first)
            piece, weight, first = [], 0, number + 1
    if piece:
        yield make_table(piece, name, first)


def _cut_tables(tables: Iterator[Any], name: str, partition_rows: int) -> Iterator[pa.Table]:
    piece: list[pa.Table] = []
    rows = size = first = 0
    for table in tables:
        if not isinstance(table, pa.Table):
            message = f'"{name}" gives tables, and then a {type(table).__name__}'
            raise SourceError.of("T0408", message, "give rows as tables alone, or as dicts alone")
        sizes = _row_bytes(table)
        begin = 0
        for end in cut_points(sizes, rows, size, partition_rows, PARTITION_BYTES):
            yield join_tables([*piece, table.slice(begin, end - begin)], name, first)
            first += rows + end - begin
            piece, rows, size, begin = [], 0, 0, end
        if begin < table.num_rows:
            piece.append(table.slice(begin))
            rows, size = rows + table.num_rows - begin, size + int(sizes[begin:].sum())
    if piece:
        yield join_tables(piece, name, first)


def _row_bytes(table: pa.Table) -> Any:
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        sizes += row_bytes(column.combine_chunks())
    return sizes
