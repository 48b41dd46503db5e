"""Source records: the schema of a source, its partitions in order, and the files they are read from.

The id of a partition digests what is read from it: the content of its file, the range of rows, the types of
the values and the split. Paths and times are no part of it, so files may move.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import pyarrow as pa
import xxhash

from ..graph.errors import SourceError, StoreError, suggest
from .access import is_url
from .files import decode_json, encode_json

SPLITS: Final = ("train", "valid", "test")
SPLIT_COLUMN: Final = "__split__"
"""Reserved column that reading adds to every record batch: the position of the row's split in `SPLITS`."""

ID_LENGTH: Final = 16


class Range(NamedTuple):
    """Some consecutive rows of a file.

    Attributes:
        start: The first of them.
        rows: How many.
        offset: Where they begin in the file, in bytes, for formats that need it.
    """

    start: int
    rows: int
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that rows are read from.

    Attributes:
        path: Absolute, or a URL, or relative to the source's folder in the store for captured rows.
        kind: Format: ``parquet``, ``arrow``, ``csv``, ``jsonl`` or ``tar``.
        bytes: Size.
        mtime_ns: When it was last written; 0 for captured rows, which never change.
        digest: Digest of its content.
        schema: The columns it has, in its own types.
        split: Position in `SPLITS`, if the source was given by split.
        etag: What its file system says of its content, behind a URL.
    """

    path: str
    kind: str
    bytes: int
    mtime_ns: int
    digest: str
    schema: pa.Schema
    split: int | None = None
    etag: str = ""

    @property
    def is_captured(self) -> bool:
        """Whether it lies in the store."""
        return not is_url(self.path) and not Path(self.path).is_absolute()


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The rows of one Dask task.

    Attributes:
        id: 16 hexadecimal digits.
        file: Position of its file in the record.
        range: Its rows in that file.
    """

    id: str
    file: int
    range: Range

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.range.rows


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """What a store knows of a source.

    Attributes:
        name: Name of the source.
        schema: Its columns, in the types that reading gives.
        partitions: In the order of the rows.
        files: What the partitions are read from. Two records are equal whatever their files are called.
        version: What the caller says the rows are, if anything.
        partition_rows: Most rows that a partition was to have.
        num_new: How many partitions the registration that returned this record added to the one before; 0 in
            a record that was read.
    """

    name: str
    schema: pa.Schema
    partitions: tuple[Partition, ...]
    files: tuple[SourceFile, ...] = field(compare=False)
    version: str | None = None
    partition_rows: int = field(compare=False)
    num_new: int = field(default=0, compare=False)

    @property
    def num_rows(self) -> int:
        """Rows of all partitions."""
        return sum(partition.rows for partition in self.partitions)

    @property
    def num_kept(self) -> int:
        """How many partitions the registration found as they were."""
        return len(self.partitions) - self.num_new

    @property
    def digest(self) -> str:
        """Digest of all rows: 32 hexadecimal digits."""
        return _digest([partition.id for partition in self.partitions])

    def partition(self, identity: str) -> Partition:
        """Return the partition called ``identity``.

        Raises:
            StoreError: The source has none.
        """
        if identity not in self._by_id:
            message = f'source "{self.name}" has no partition {identity}'
            help_ = "the source has changed since: build again"
            raise StoreError.of("T0507", message, help_)
        return self._by_id[identity]

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise unless the source has all columns in ``names``.

        Raises:
            SourceError: One is missing; the nearest is named.
        """
        for name in names:
            if name not in self.schema.names:
                message = f'source "{self.name}" has no column "{name}"'
                known = suggest(name, self.schema.names)
                raise SourceError.of("T0403", message, known).at(column=name)

    def encode(self) -> bytes:
        """Return the content of the record's file."""
        schemas = {_encode_schema(schema): None for schema in (f.schema for f in self.files)}
        index = {schema: i for i, schema in enumerate(schemas)}
        record = {
            "name": self.name,
            "version": self.version,
            "partition_rows": self.partition_rows,
            "columns": {column.name: str(column.type) for column in self.schema},
            "schema": _encode_schema(self.schema),
            "schemas": list(schemas),
            "files": [
                [
                    f.path,
                    f.kind,
                    f.bytes,
                    f.mtime_ns,
                    f.digest,
                    index[_encode_schema(f.schema)],
                    f.split,
                    *([f.etag] if f.etag else []),
                ]
                for f in self.files
            ],
            "partitions": [[p.id, p.file, *p.range] for p in self.partitions],
        }
        return encode_json(record)

    @classmethod
    def decode(cls, content: bytes, name: str) -> Self:
        """Return the record that ``content`` of the file called ``name`` holds.

        Raises:
            StoreError: The file is damaged.
        """
        record = decode_json(content, name)
        try:
            return cls._decode(record)
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            message = f"{name} is damaged: it is no record of a source"
            raise StoreError.of("T0504", message, "delete it and build again") from error

    @classmethod
    def _decode(cls, record: Mapping[str, Any]) -> Self:
        schemas = [_decode_schema(text) for text in record["schemas"]]
        names = ("path", "kind", "bytes", "mtime_ns", "digest", "schema", "split", "etag")
        # Files behind a URL have an etag beside the rest.
        files = [dict(zip(names, values, strict=False)) for values in record["files"]]
        return cls(
            name=record["name"],
            schema=_decode_schema(record["schema"]),
            partitions=tuple(
                Partition(id=identity, file=file, range=Range(*rows))
                for identity, file, *rows in record["partitions"]
            ),
            files=tuple(SourceFile(**{**f, "schema": schemas[f["schema"]]}) for f in files),
            version=record["version"],
            partition_rows=record["partition_rows"],
        )

    @cached_property
    def _by_id(self) -> dict[str, Partition]:
        return {partition.id: partition for partition in self.partitions}


def make_partitions(
    files: Sequence[SourceFile], ranges: Sequence[Sequence[Range]], schema: pa.Schema
) -> tuple[Partition, ...]:
    """Return the partitions of ``files``, each cut into its ``ranges``, as read in the types of ``schema``."""
    seen: dict[str, int] = {}
    partitions: list[Partition] = []
    for number, file in enumerate(files):
        types = [f"{name}: {schema.field(name).type}" for name in sorted(file.schema.names)]
        for rows in ranges[number]:
            if not rows.rows:
                continue
            content = [file.digest, rows.start, rows.rows, file.split or 0, types]
            identity = _digest(content)
            # Equal rows given twice are two partitions.
            seen[identity] = seen.get(identity, -1) + 1
            if seen[identity]:
                identity = _digest([*content, seen[identity]])
            partitions.append(Partition(id=identity[:ID_LENGTH], file=number, range=rows))
    return tuple(partitions)


def _digest(content: Sequence[object]) -> str:
    return xxhash.xxh3_128_hexdigest(repr(content).encode())


def _encode_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize()).decode()


def _decode_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
