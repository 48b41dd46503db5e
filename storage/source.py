"""Sources: rows from files or from a program, registered in a store and read back as record batches.

Files stay where they are and are known by their content; other rows are captured. Either way a source becomes
a `SourceRecord`: partitions in order, whose ids change if and only if their rows do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ..graph.errors import SourceError, StoreError
from .batches import READ_ROWS, small_batches
from .capture import capture_rows
from .formats import FORMATS, blaming, by_split, find_files, is_files
from .record import (
    SPLIT_COLUMN,
    SPLITS,
    Partition,
    Range,
    SourceFile,
    SourceRecord,
    make_partitions,
)
from .remote import Facts
from .row_file import CapturedFile, FoundFile, RowFile, row_file
from .store import SOURCE, Store
from .unify import unify_types
from .values import cast_column

PARTITION_ROWS: Final = 8192
"""Most rows of a partition; fewer where they take more than 64 MB."""

# A file that changes twice within one tick of its file system's clock shows it in neither size nor time.
_CLOCK_TICK_NS: Final = 2_000_000_000


def register_source(
    store: Store,
    name: str,
    data: Any,
    *,
    version: str | None = None,
    partition_rows: int = PARTITION_ROWS,
) -> SourceRecord:
    """Describe ``data`` in ``store``, and capture its rows there unless they are in files.

    Args:
        store: Where to.
        name: Name of the source.
        data: A path or glob of Parquet, Arrow, CSV, JSON lines or WebDataset tar files, or a list of them; a
            frame, an iterable of mappings or of frames, or a function that returns one of these; or any of
            them by split, under ``"train"``, ``"valid"`` and ``"test"``.
        version: What the rows are, where none are in files: they are read again only when it changes.
        partition_rows: Most rows in a partition.

    Returns:
        The record. If the rows are what they were, it equals the one before, and nothing is written.

    Raises:
        SourceError: A file is missing, damaged, of an unknown kind or changing; there are no rows, or they do
            not agree.
        StoreError: The store cannot be written, or a path is a URL.
    """
    before = store.source(name) if name in store.sources() else None
    parts = by_split(name, data)
    is_captured = not any(is_files(part) for _, part in parts)
    if before and is_captured and version is not None and version == before.version:
        return before
    record = _Draft(store, name, before, partition_rows).record(parts, version)
    if before is None or before.encode() != record.encode():
        store.write_source(record)
    known = {partition.id for partition in before.partitions} if before else set[str]()
    return replace(record, num_new=sum(part.id not in known for part in record.partitions))


def examine_source(
    store: Store, name: str, data: Any, *, partition_rows: int = PARTITION_ROWS
) -> SourceRecord | None:
    """Return the record that registering ``data`` would give, and write nothing.

    Files that were touched since the record in ``store`` are read once. None if some rows are in no files: they
    would have to be captured.

    Raises:
        SourceError: A file is missing, damaged, of an unknown kind or changing; there are no rows, or they do
            not agree.
        StoreError: A path is a URL.
    """
    parts = by_split(name, data)
    if not all(is_files(part) for _, part in parts):
        return None
    before = store.source(name) if name in store.sources() else None
    return _Draft(store, name, before, partition_rows).record(parts, None)


def read_batches(
    store: Store, record: SourceRecord, partition: str, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one partition in record batches of at most 1024 rows and about 32 MB.

    Args:
        store: Where the source is registered.
        record: The source.
        partition: Id of the partition.
        columns: Names of columns, all by default; `SPLIT_COLUMN` is added.

    Raises:
        SourceError: There is no such column, or the file is gone, changed or damaged.
        StoreError: A captured file is gone or damaged, or there is no such partition.
    """
    names = list(record.schema.names if columns is None else dict.fromkeys(columns))
    record.check_columns(names)
    part = record.partition(partition)
    file = record.files[part.file]
    rows = _row_file(store, record.name, file)
    _check_unchanged(rows, file)
    num_rows = 0
    with rows.opened(file.digest, file.bytes) as path, blaming(rows.name):
        for batch in _read(path, file, part, names, record):
            first = part.range.start + num_rows
            yield from small_batches(_conform(batch, names, record, file, first))
            num_rows += batch.num_rows
    _check_unchanged(rows, file)
    if num_rows != part.rows:
        message = (
            f"{rows.name} gives {num_rows} rows for partition {partition}, which had {part.rows}"
        )
        raise SourceError.of("T0406", message, "build again: the file is then read anew")


@dataclass(slots=True)
class _Draft:
    """A record in the making."""

    store: Store
    name: str
    before: SourceRecord | None
    partition_rows: int
    files: list[SourceFile] = field(default_factory=list[SourceFile])
    ranges: list[list[Range]] = field(default_factory=list[list[Range]])
    schemas: list[tuple[str, pa.Schema]] = field(default_factory=list[tuple[str, pa.Schema]])

    def record(self, parts: Sequence[tuple[int | None, Any]], version: str | None) -> SourceRecord:
        """Return the record of all ``parts`` of the source.

        Raises:
            SourceError: There are no rows, or they do not agree.
        """
        for split, part in parts:
            self.add(split, part)
        schema = _unite(self.name, self.schemas)
        partitions = make_partitions(self.files, self.ranges, schema)
        if not partitions:
            help_ = "if it is a generator that was used up, give a function that returns a new one"
            raise SourceError.of("T0404", f'source "{self.name}" has no rows', help_)
        return SourceRecord(
            name=self.name,
            schema=schema,
            partitions=partitions,
            files=tuple(self.files),
            version=version,
            partition_rows=self.partition_rows,
        )

    def add(self, split: int | None, data: Any) -> None:
        """Add one part of the source."""
        if is_files(data):
            for rows, kind in find_files(data, self.store.access_to):
                file, ranges = self._known(rows, kind) or _scan(rows, kind, self.partition_rows)
                self.files.append(replace(file, split=split))
                self.ranges.append(ranges)
                self.schemas.append((rows.name, file.schema))
            return
        label = self.name if split is None else f"{self.name}[{SPLITS[split]}]"
        captured, schema = capture_rows(
            data,
            self.store.folder,
            self.store.source_folder(self.name),
            name=label,
            split=split,
            partition_rows=self.partition_rows,
        )
        self.files += [file for file, _ in captured]
        self.ranges += [[Range(0, num_rows)] for _, num_rows in captured]
        self.schemas.append((label, schema))

    def _known(self, rows: FoundFile, kind: str) -> tuple[SourceFile, list[Range]] | None:
        """Return what the record before says of a file that has not been touched since."""
        if self.before is None or self.before.partition_rows != self.partition_rows:
            return None
        facts = rows.facts()
        if facts is None or not self._is_settled(facts):
            return None
        for number, file in enumerate(self.before.files):
            if (file.path, file.kind, _facts_of(file)) == (rows.name, kind, facts):
                partitions = self.before.partitions
                return file, [part.range for part in partitions if part.file == number]
        return None

    def _is_settled(self, facts: Facts) -> bool:
        """Return whether a file that is written again, after the record before, tells so."""
        record = f"{self.store.source_folder(self.name)}/{SOURCE}"
        written = self.store.folder.written_ns(record)
        return bool(facts.etag) or written - facts.mtime_ns >= _CLOCK_TICK_NS


def _scan(rows: FoundFile, kind: str, partition_rows: int) -> tuple[SourceFile, list[Range]]:
    with blaming(rows.name):
        facts, digest = rows.facts() or Facts(0, 0, ""), rows.digest()
    with rows.opened(digest, facts.num_bytes) as path, blaming(rows.name):
        schema, ranges = FORMATS[kind].scan(path, partition_rows)
    file = SourceFile(
        path=rows.name,
        kind=kind,
        bytes=facts.num_bytes,
        mtime_ns=facts.mtime_ns,
        digest=digest,
        schema=schema,
        etag=facts.etag,
    )
    _check_unchanged(rows, file, is_new=True)
    return file, ranges


def _row_file(store: Store, source: str, file: SourceFile) -> RowFile:
    if file.is_captured:
        return CapturedFile(store.folder, f"{store.source_folder(source)}/{file.path}")
    return row_file(file.path, store.access_to)


def _facts_of(file: SourceFile) -> Facts:
    return Facts(file.bytes, file.mtime_ns, file.etag)


def _check_unchanged(rows: RowFile, file: SourceFile, *, is_new: bool = False) -> None:
    if rows.is_compared and not is_new:
        return
    facts = rows.facts()
    if facts is None and file.is_captured:
        raise StoreError.of("T0504", f"{rows.name} is gone", "build again")
    if facts is None:
        raise SourceError.of("T0401", f"{rows.name} is gone", "put it back, or build again")
    if file.is_captured and facts.num_bytes != file.bytes:
        message = f"{rows.name} is damaged: it has {facts.num_bytes} bytes instead of {file.bytes}"
        raise StoreError.of("T0504", message, "delete it and build again")
    if not file.is_captured and facts != _facts_of(file):
        message = f"{rows.name} has changed since it was last looked at"
        raise SourceError.of("T0406", message, "build again when nobody writes to it")


def _unite(name: str, schemas: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    types: dict[str, pa.DataType] = {}
    first_in: dict[str, str] = {}
    for place, schema in schemas:
        for column in schema:
            if column.name == SPLIT_COLUMN or schema.names.count(column.name) > 1:
                message = f'{place} has a column "{column.name}" that is reserved or there twice'
                raise SourceError.of("T0407", message, "rename it").at(column=column.name)
            before = types.get(column.name, pa.null())
            united = unify_types(before, column.type)
            if united is None:
                message = (
                    f'source "{name}": column "{column.name}" is {column.type} in {place}, '
                    f"and {before} in {first_in[column.name]}"
                )
                help_ = "make the files agree, for example by writing the column as text"
                raise SourceError.of("T0405", message, help_).at(column=column.name)
            types[column.name] = united
            first_in.setdefault(column.name, place)
    return pa.schema(list(types.items()))


def _read(
    path: Path, file: SourceFile, part: Partition, names: Sequence[str], record: SourceRecord
) -> Iterator[pa.RecordBatch]:
    if present := [name for name in names if name in file.schema.names]:
        types = {name: record.schema.field(name).type for name in present}
        yield from FORMATS[file.kind].read(path, part.range, present, types)
        return
    for begin in range(0, part.rows, READ_ROWS):
        nothing = pa.nulls(min(READ_ROWS, part.rows - begin))
        yield pa.RecordBatch.from_arrays([nothing], names=[""])


def _conform(
    batch: pa.RecordBatch, names: Sequence[str], record: SourceRecord, file: SourceFile, first: int
) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    for name in names:
        type_ = record.schema.field(name).type
        if name in file.schema.names:
            column = batch.column(batch.schema.get_field_index(name))
            arrays.append(cast_column(column, type_, name, Path(file.path).name, first))
        else:
            arrays.append(pa.nulls(batch.num_rows, type_))
    splits = np.full(batch.num_rows, file.split or 0, np.uint8)
    return pa.RecordBatch.from_arrays([*arrays, pa.array(splits)], names=[*names, SPLIT_COLUMN])
