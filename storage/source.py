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
from .files import digest_file, write_json
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
from .store import Store
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
        write_json(store.source_dir(name) / "source.json", record.encode())
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
    path = store.source_dir(record.name) / file.path  # an absolute path stays what it is
    _check_unchanged(path, file)
    num_rows = 0
    with blaming(path):
        for batch in _read(path, file, part, names, record):
            first = part.range.start + num_rows
            yield from small_batches(_conform(batch, names, record, file, first))
            num_rows += batch.num_rows
    _check_unchanged(path, file)
    if num_rows != part.rows:
        message = f"{path} gives {num_rows} rows for partition {partition}, which had {part.rows}"
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
            for path, kind in find_files(data):
                file, ranges = self._known(path, kind) or _scan(path, kind, self.partition_rows)
                self.files.append(replace(file, split=split))
                self.ranges.append(ranges)
                self.schemas.append((str(path), file.schema))
            return
        label = self.name if split is None else f"{self.name}[{SPLITS[split]}]"
        captured, schema = capture_rows(
            data,
            self.store.source_dir(self.name),
            name=label,
            split=split,
            partition_rows=self.partition_rows,
        )
        self.files += [file for file, _ in captured]
        self.ranges += [[Range(0, num_rows)] for _, num_rows in captured]
        self.schemas.append((label, schema))

    def _known(self, path: Path, kind: str) -> tuple[SourceFile, list[Range]] | None:
        """Return what the record before says of a file that has not been touched since."""
        if self.before is None or self.before.partition_rows != self.partition_rows:
            return None
        stat = path.stat()
        recorded = self.store.source_dir(self.name) / "source.json"
        if recorded.stat().st_mtime_ns - stat.st_mtime_ns < _CLOCK_TICK_NS:
            return None
        for number, file in enumerate(self.before.files):
            facts = (file.path, file.kind, file.bytes, file.mtime_ns)
            if facts == (str(path), kind, stat.st_size, stat.st_mtime_ns):
                partitions = self.before.partitions
                return file, [part.range for part in partitions if part.file == number]
        return None


def _scan(path: Path, kind: str, partition_rows: int) -> tuple[SourceFile, list[Range]]:
    with blaming(path):
        stat = path.stat()
        digest = digest_file(path)
        schema, ranges = FORMATS[kind].scan(path, partition_rows)
    file = SourceFile(
        path=str(path),
        kind=kind,
        bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        digest=digest,
        schema=schema,
    )
    _check_unchanged(path, file)
    return file, ranges


def _check_unchanged(path: Path, file: SourceFile) -> None:
    is_captured = not Path(file.path).is_absolute()
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        if is_captured:
            raise StoreError.of("T0504", f"{path} is gone", "build again") from error
        raise SourceError.of("T0401", f"{path} is gone", "put it back, or build again") from error
    if is_captured and stat.st_size != file.bytes:
        message = f"{path} is damaged: it has {stat.st_size} bytes instead of {file.bytes}"
        raise StoreError.of("T0504", message, "delete it and build again")
    if not is_captured and (stat.st_size, stat.st_mtime_ns) != (file.bytes, file.mtime_ns):
        message = f"{path} has changed since it was last looked at"
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
