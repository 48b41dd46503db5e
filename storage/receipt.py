"""Receipts: what a committed partition of a column consists of, with a checksum for every part.

A partition exists if and only if its receipt does. Receipts hold no times, so equal work gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple, Self

import xxhash

from ..graph.errors import StoreError
from .files import decode_json, encode_json

LEDGER: Final = "ledger"
"""Name, among the files of a receipt, of the one that lies outside the column's folder."""

SEAL: Final = "seal"
"""Key of a receipt's checksum of all that is beside it."""


class Block(NamedTuple):
    """One Arrow record batch, or one inner chunk of a Zarr shard.

    Attributes:
        row: First row of the partition that it holds.
        rows: How many.
        offset: Where it begins in its file, in bytes.
        bytes: How long it is.
        xxh3: Checksum, 16 hexadecimal digits.
    """

    row: int
    rows: int
    offset: int
    bytes: int
    xxh3: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of a partition.

    Attributes:
        name: What follows the partition's id: ``arrow``, ``lengths``, ``zarr/zarr.json``, ``zarr/c.0.0``;
            or ``ledger``.
        bytes: Size.
        xxh3: Checksum of all of it, 32 hexadecimal digits.
        blocks: Where rows lie in it; none for small files.
    """

    name: str
    bytes: int
    xxh3: str
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The record that commits one partition of one column.

    Attributes:
        source: Name of the source.
        key: Column id.
        partition: Partition id.
        type: Type of the values, as the graph spells it, without the row set.
        rows: Rows, whatever their validity.
        nulls: Rows without a value.
        files: Everything that was written.
        libraries: Versions that had a hand in the bytes.
        extra: What the writer wants to keep, as plain data.
    """

    source: str
    key: str
    partition: str
    type: str
    rows: int
    nulls: int
    files: tuple[StoredFile, ...]
    libraries: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def encode(self) -> bytes:
        """Return the content of the receipt's file, sealed with a checksum of itself."""
        record = asdict(self)
        return encode_json(record | {SEAL: _digest(record)})

    @classmethod
    def decode(cls, content: bytes, name: str) -> Self:
        """Return the receipt that ``content`` of the file called ``name`` holds.

        Raises:
            StoreError: The file is damaged.
        """
        record: Any = decode_json(content, name)
        try:
            _check_seal(record, content)
            record["files"] = tuple(
                StoredFile(**(file | {"blocks": tuple(Block(*block) for block in file["blocks"])}))
                for file in record["files"]
            )
            return cls(**record)
        except (KeyError, TypeError) as error:
            message = f"{name} is damaged: it is no receipt"
            help_ = "delete it and build again: only this partition is rebuilt"
            raise StoreError.of("T0504", message, help_) from error


def _check_seal(record: dict[str, Any], content: bytes) -> None:
    """Take the seal off ``record``, which ``content`` spells; receipts from before there were seals have none.

    Raises:
        KeyError: The record is not what was sealed, to the byte.
    """
    if SEAL in record and (encode_json(record) != content or record.pop(SEAL) != _digest(record)):
        raise KeyError(SEAL)


def _digest(record: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(encode_json(record))
