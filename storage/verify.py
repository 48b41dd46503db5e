"""Verification: every byte of a store is read again and compared with what was meant when it was written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from ..graph.errors import Problem, StoreError
from .column import read_receipt
from .files import count_bytes, digest_file
from .reader import damage
from .receipt import Block, Receipt, StoredFile
from .store import Store

PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was read again, and what was wrong with it.

    Attributes:
        columns: Number of columns.
        partitions: Number of their partitions.
        bytes: Size of their files.
        problems: What is damaged.
    """

    columns: int
    partitions: int
    bytes: int
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        num_problems = len(self.problems) or "no"
        summary = (
            f"verified {self.partitions} partitions of {self.columns} columns, "
            f"{count_bytes(self.bytes)}: {num_problems} problem{'s' * (num_problems != 1)}"
        )
        return "\n".join([*map(str, self.problems), summary])


def verify(store: Store) -> Report:
    """Read every column, ledger, captured row, artifact and record of ``store`` again."""
    problems = [p for name in store.sources() for p in _verify_source(store, name)]
    columns = store.columns()
    num_partitions = num_bytes = 0
    for source, key in columns:
        problems += verify_column(store, source, key)
        num_partitions += len(store.committed(source, key))
        num_bytes += store.folder.total(store.column_folder(source, key))
    try:
        for artifact in store.artifacts().values():
            store.artifact_content(artifact.digest)
    except StoreError as error:
        problems += error.problems
    return Report(
        columns=len(columns),
        partitions=num_partitions,
        bytes=num_bytes,
        problems=tuple(problems),
    )


def verify_column(
    store: Store, source: str, key: str, partitions: Sequence[str] | None = None
) -> Iterator[Problem]:
    """Yield what is damaged in ``partitions`` of a column, all that exist by default."""
    for partition in sorted(store.committed(source, key)) if partitions is None else partitions:
        try:
            receipt = read_receipt(store, source, key, partition)
        except StoreError as error:
            yield from error.problems
            continue
        if receipt is None:
            message = f"column {source}/{key} lacks partition {partition}"
            yield Problem("T0507", message, "build again", row=partition, column=f"{source}/{key}")
            continue
        for file in receipt.files:
            yield from _verify_file(store, receipt, file)


def _verify_file(store: Store, receipt: Receipt, file: StoredFile) -> Iterator[Problem]:
    name = store.file_name(receipt.source, receipt.key, receipt.partition, file.name)
    try:
        with store.folder.copied(name) as path:
            size, wrong, digest = _check(path, file)
    except FileNotFoundError:
        yield damage(store, receipt, file.name, "it is gone")
        return
    except OSError as error:
        yield damage(store, receipt, file.name, f"it cannot be read: {error.strerror}")
        return
    if size != file.bytes:
        why = f"it has {size} bytes instead of {file.bytes}"
        yield damage(store, receipt, file.name, why)
    for block in wrong:
        rows = f"{block.row}-{block.row + block.rows - 1}"
        yield damage(store, receipt, file.name, f"rows {rows} do not match their checksum", rows)
    if size == file.bytes and not wrong and digest != file.xxh3:
        rows = f"0-{receipt.rows - 1}"
        yield damage(store, receipt, file.name, "it does not match its checksum", rows)


def _check(path: Path, file: StoredFile) -> tuple[int, list[Block], str]:
    """Return the size of a file, its blocks that are wrong and the digest of all of it."""
    whole = xxhash.xxh3_128()
    wrong: list[Block] = []
    with path.open("rb", buffering=0) as content:
        for begin, end, block in _stretches(file):
            part = xxhash.xxh3_64()
            left = end - begin
            while left and (piece := content.read(min(left, PIECE_BYTES))):
                whole.update(piece)
                part.update(piece)
                left -= len(piece)
            if block is not None and part.hexdigest() != block.xxh3:
                wrong.append(block)
        return content.seek(0, os.SEEK_END), wrong, whole.hexdigest()


def _stretches(file: StoredFile) -> Iterator[tuple[int, int, Block | None]]:
    """Yield where the blocks of ``file``, and the bytes between them, begin and end."""
    position = 0
    for block in file.blocks:
        if block.offset > position:
            yield position, block.offset, None
        position = block.offset + block.bytes
        yield block.offset, position, block
    yield position, file.bytes, None


def _verify_source(store: Store, name: str) -> Iterator[Problem]:
    try:
        record = store.source(name)
    except StoreError as error:
        yield from error.problems
        return
    for partition in record.partitions:
        file = record.files[partition.file]
        if not file.is_captured:
            continue
        path = f"{store.source_folder(name)}/{file.path}"
        if why := _look_at(store, path, file.digest):
            rows = f"{partition.id}:0-{partition.rows - 1}"
            help_ = f"delete it and build again with the rows of {name}"
            message = f"{store.folder.spell(path)} is damaged: it {why}"
            yield Problem("T0504", message, help_, row=rows, column=name)


def _look_at(store: Store, name: str, digest: str) -> str:
    """Return what is wrong with a file, or nothing."""
    try:
        with store.folder.copied(name) as path:
            return "" if digest_file(path) == digest else "does not match its checksum"
    except FileNotFoundError:
        return "is gone"
