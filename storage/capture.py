"""Capturing: rows that only a program can give are streamed once into Arrow files of the store.

A file is named after its content, so capturing equal rows again writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ..graph.errors import SourceError, StoreError
from .batches import small_batches
from .files import digest_bytes
from .folder import Folder
from .record import ID_LENGTH, SourceFile
from .tabular import PARTITION_BYTES
from .unify import unify_types
from .values import canonical_row, conflict, make_table, weigh


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
        data: An iterable of mappings, or a function that returns one.
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
    for rows in _pieces(iterate_rows(data, name), name, partition_rows):
        table = make_table(rows, name, first)
        for field in table.schema:
            before = types.get(field.name, pa.null())
            united = unify_types(before, field.type)
            if united is None:
                row = first + table.column(field.name).is_valid().index(value=True).as_py()
                raise conflict(name, row, field.name, field.type, before)
            types[field.name] = united
        files.append((_store(table, folder, directory, split), len(rows)))
        first += len(rows)
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


def iterate_rows(data: Any, name: str) -> Iterator[Any]:
    """Yield the rows of an iterable, or of what a function returns, as they are.

    Raises:
        SourceError: ``data`` gives no rows, or raises.
    """
    try:
        rows: Any = data() if callable(data) else data
        iterator = iter(rows)
    except TypeError as error:
        message = f'source "{name}" is a {type(data).__name__}, which gives no rows: {error}'
        help_ = "give paths, an iterable of dicts, or a function that returns one"
        raise SourceError.of("T0402", message, help_) from error
    number = 0
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except (SourceError, StoreError):
            raise
        except Exception as error:
            message = f'source "{name}" raised {type(error).__name__} at row {number}: {error}'
            raise SourceError.of("T0401", message).at(row=f"{name}:{number}") from error
        yield row
        number += 1


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


def _pieces(rows: Iterator[Any], name: str, partition_rows: int) -> Iterator[list[dict[str, Any]]]:
    piece: list[dict[str, Any]] = []
    weight = 0
    for number, row in enumerate(rows):
        piece.append(canonical_row(row, name, number))
        weight += weigh(piece[-1])
        if len(piece) == partition_rows or weight >= PARTITION_BYTES:
            yield piece
            piece, weight = [], 0
    if piece:
        yield piece
