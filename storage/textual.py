"""CSV and JSON lines as rows: scanned once for the types of their columns, read as streams.

A CSV file is one partition, because only a reader that began at its start knows where rows begin. JSON lines
are cut anywhere: partitions hold the byte they begin at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import pyarrow as pa
from pyarrow import csv

from ..graph.errors import Problem, SourceError
from .batches import READ_BYTES, READ_ROWS
from .record import Range
from .tabular import PARTITION_BYTES
from .unify import unify_types
from .values import cast_column, conflict, to_table

BLOCK_BYTES: Final = 16 << 20
"""Longest line of a CSV file."""

_WIDER: Final = {"null": pa.int64(), "int64": pa.float64(), "double": pa.string()}
_CONVERSION = re.compile(
    r"In CSV column #(?P<column>\d+):.*conversion error to (?P<type>\w+)", re.S
)
_ROW = re.compile(r"Row #(\d+): ")


def scan_csv(path: Path, partition_rows: int) -> tuple[pa.Schema, list[Range]]:
    """Return the columns of ``path`` and its only range of rows.

    Types are inferred from the beginning; a value further on that does not fit widens its column, in the end to
    text, and the file is read again.
    """
    del partition_rows  # a CSV file is one partition
    types: dict[str, pa.DataType] = {}
    while True:
        num_rows = 0
        schema = pa.schema([])
        try:
            with _open_csv(path, types, None) as reader:
                schema = reader.schema
                _check_names(path, schema.names)
                for batch in reader:
                    num_rows += batch.num_rows
        except pa.ArrowInvalid as error:
            match = _CONVERSION.search(str(error))
            if match is None or match["type"] == "string":
                _refuse_csv(path, error)
            types[_header(path)[int(match["column"])]] = _WIDER.get(match["type"], pa.string())
            continue
        # Text that is not UTF-8 is taken for bytes: as text it is refused.
        foreign = {c.name: pa.string() for c in schema if pa.types.is_binary(c.type)}
        if not foreign:
            return schema.remove_metadata(), [Range(0, num_rows)]
        types |= foreign


def read_csv(
    path: Path, rows: Range, columns: Sequence[str], types: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of ``columns``, in ``types``."""
    del rows  # a CSV file is one partition
    try:
        with _open_csv(path, types, columns) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        _refuse_csv(path, error)


def head_csv(path: Path, num_rows: int) -> pa.Table:
    """Return the first rows of ``path``, in types that fit its first block."""
    try:
        with _open_csv(path, {}, None) as reader:
            _check_names(path, reader.schema.names)
            tables: list[pa.Table] = []
            while num_rows > 0 and (batch := next(reader, None)) is not None:
                tables.append(pa.Table.from_batches([batch.slice(0, num_rows)]))
                num_rows -= batch.num_rows
            return pa.concat_tables(tables) if tables else reader.schema.empty_table()
    except pa.ArrowInvalid as error:
        _refuse_csv(path, error)


def scan_jsonl(path: Path, partition_rows: int) -> tuple[pa.Schema, list[Range]]:
    """Return the columns of ``path`` and the ranges of rows to partition it by."""
    types: dict[str, pa.DataType] = {}
    ranges: list[Range] = []
    begin = offset = first = number = 0
    num_groups = -(-partition_rows // READ_ROWS)
    for lines, next_offset in _line_groups(path, 0, partition_rows // num_groups):
        table = _to_table(path, lines, number)
        for field in table.schema:
            before = types.get(field.name, pa.null())
            united = unify_types(before, field.type)
            if united is None:
                row = number + table.column(field.name).is_valid().index(value=True).as_py()
                raise conflict(path.name, row, field.name, field.type, before)
            types[field.name] = united
        number, offset = number + len(lines), next_offset
        if number - first >= partition_rows or offset - begin >= PARTITION_BYTES:
            ranges.append(Range(first, number - first, begin))
            first, begin = number, offset
    if number > first:
        ranges.append(Range(first, number - first, begin))
    return pa.schema(list(types.items())), ranges


def read_jsonl(
    path: Path, rows: Range, columns: Sequence[str], types: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of ``columns`` over ``rows``."""
    number, left = rows.start, rows.rows
    for lines, _ in _line_groups(path, rows.offset, READ_ROWS):
        table = _to_table(path, lines[:left], number)
        arrays = [_column(table, name, types[name], path, number) for name in columns]
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
        number, left = number + table.num_rows, left - table.num_rows
        if not left:
            return


def head_jsonl(path: Path, num_rows: int) -> pa.Table:
    """Return the first rows of ``path``."""
    lines: list[bytes] = []
    for group, _ in _line_groups(path, 0, min(num_rows, READ_ROWS)):
        lines += group[: num_rows - len(lines)]
        if len(lines) >= num_rows:
            break
    return _to_table(path, lines, 0)


def _column(table: pa.Table, name: str, type_: pa.DataType, path: Path, first: int) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, type_)
    return cast_column(table.column(name).combine_chunks(), type_, name, path.name, first)


def _open_csv(path: Path, types: Mapping[str, pa.DataType], columns: Sequence[str] | None) -> Any:
    return csv.open_csv(
        str(path),
        read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=csv.ParseOptions(
            delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict(types), include_columns=list(columns or [])
        ),
    )


def _header(path: Path) -> list[str]:
    with _open_csv(path, {}, None) as reader:
        return reader.schema.names


def _check_names(path: Path, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        message = f'{path} has several columns called "{twice[0]}"'
        raise SourceError.of("T0407", message, "give them different names in the first line")


def _refuse_csv(path: Path, error: Exception) -> NoReturn:
    row = _ROW.search(str(error))
    place = f"{path.name}:{row[1]}" if row else ""
    help_ = "every line needs as many fields as the first, and all of them UTF-8"
    message = f"cannot read {path}: {error}"
    raise SourceError(Problem("T0408", message, help_, row=place)) from error


def _line_groups(path: Path, offset: int, max_rows: int) -> Iterator[tuple[list[bytes], int]]:
    """Yield lines that are not blank, and where the next ones begin: `READ_BYTES` or ``max_rows`` at a time."""
    lines: list[bytes] = []
    begin = offset
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            if line.strip():
                lines.append(line)
            if len(lines) == max_rows or offset - begin >= READ_BYTES:
                yield lines, offset
                lines, begin = [], offset
    if lines:
        yield lines, offset


def _to_table(path: Path, lines: Sequence[bytes], first: int) -> pa.Table:
    rows = [_parse(path, line, first + i) for i, line in enumerate(lines)]
    return to_table(rows, name=path.name, first=first)


def _parse(path: Path, line: bytes, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        message = f"row {number} of {path} is not JSON: {error}"
        help_ = "JSON lines hold one object per line"
        raise SourceError(Problem("T0408", message, help_, row=f"{path.name}:{number}")) from error
