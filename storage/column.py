"""Columns: writing one partition of one column, so that it exists whole or not at all.

<partition>.arrow  or  <partition>.zarr/     the values
<partition>.lengths                          length and validity of each row
<partition>.receipt                          sizes and checksums; written last, it commits the partition
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..graph.errors import StoreError
from ..graph.type import CONSTANT_ROWS, Layout, Type
from .arrow_file import ArrowWriter, arrow_type, value_lengths
from .files import remove
from .hashed import HashedFile
from .ledger import LedgerEntry, write_ledger
from .receipt import LEDGER, Receipt, StoredFile
from .store import Store
from .zarr_file import ZarrWriter

LENGTHS: Final = "lengths"
RECEIPT: Final = "receipt"
LIBRARIES: Final = {"numpy": np.__version__, "pyarrow": pa.__version__}


class Body(Protocol):
    """What writes the values of a partition."""

    def write(self, array: Any) -> None:
        """Append rows."""
        ...

    def finish(self) -> list[StoredFile]:
        """Flush to the disk."""
        ...

    def close(self) -> None:
        """Give up."""
        ...


def open_writer(store: Store, source: str, key: str, partition: str, type_: Type) -> ColumnWriter:
    """Return a writer for one partition of column ``key``, whose values are of ``type_``.

    Raises:
        StoreError: The store cannot be written.
    """
    return ColumnWriter(store, source, key, partition, type_)


def read_receipt(store: Store, source: str, key: str, partition: str) -> Receipt | None:
    """Return the receipt of a partition, or nothing if the partition does not exist.

    Raises:
        StoreError: The receipt is damaged.
    """
    return read_receipts(store, source, key, [partition])[0]


def read_receipts(
    store: Store, source: str, key: str, partitions: Sequence[str]
) -> list[Receipt | None]:
    """Return the receipts of partitions; nothing for those that do not exist.

    Raises:
        StoreError: A receipt is damaged.
    """
    names = [store.file_name(source, key, partition, RECEIPT) for partition in partitions]
    found = store.folder.read_many(names)
    return [
        Receipt.decode(found[name], store.folder.spell(name)) if name in found else None
        for name in names
    ]


def discard(store: Store, source: str, key: str, partition: str) -> None:
    """Let a partition exist no more; the next build makes it again."""
    mark, *others = (
        store.file_name(source, key, partition, name)
        for name in (RECEIPT, "arrow", "zarr", LENGTHS, LEDGER)
    )
    store.folder.discard(mark, others)


class ColumnWriter:
    """Writes one partition of one column; get one from `open_writer`.

    As a context it gives up unless it was committed.
    """

    def __init__(self, store: Store, source: str, key: str, partition: str, type_: Type) -> None:
        self._names = (source, key, partition)
        self._store = store
        self._type = replace(type_, rows=CONSTANT_ROWS)
        self._staged: dict[str, Path] = {}
        self._lengths: list[npt.NDArray[np.uint32]] = []
        self._valid: list[npt.NDArray[np.bool_]] = []
        self._is_open = True
        path = self._stage("zarr" if type_.layout is Layout.DENSE else "arrow")
        try:
            self._body: Body = _open_body(path, type_)
        except BaseException:
            self._clean()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, array: Any) -> None:
        """Append the rows of ``array``; rows without a value are null.

        Raises:
            StoreError: Values are of another type than the column's (T0508), or the disk is full (T0505).
        """
        try:
            self._body.write(array)
        except TypeError as error:
            source, key, partition = self._names
            message = f"column {source}/{key}, partition {partition}, holds {self._type}: {error}"
            help_ = "the op that makes it breaks the promise of its signature"
            raise StoreError.of("T0508", message, help_) from error
        self._valid.append(array.is_valid().to_numpy(zero_copy_only=False))
        self._lengths.append(
            self._valid[-1].astype(np.uint32)
            if self._type.layout is Layout.DENSE
            else value_lengths(array)
        )

    def commit(
        self,
        entries: Sequence[LedgerEntry] = (),
        extra: Mapping[str, Any] | None = None,
        *,
        graph: str = "",
        libraries: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Flush everything to the disk and make the partition exist.

        If somebody else has made it meanwhile, theirs is kept: it is equal.

        Args:
            entries: The rows that could not be computed.
            extra: Plain data to keep in the receipt; no times.
            graph: Text of the graph of the nodes that could not compute them.
            libraries: Versions that had a hand in the values.

        Raises:
            StoreError: The disk is full, or the store cannot be written.
        """
        try:
            files = [*self._body.finish(), self._write_lengths()]
            files += [self._write_ledger(entries, graph)] if entries else []
            return self._publish(self._receipt(files, extra or {}, libraries or {}))
        finally:
            self.abort()

    def abort(self) -> None:
        """Give up, leaving nothing behind; after `commit` it does nothing."""
        if self._is_open:
            self._is_open = False
            self._body.close()
            self._clean()

    def _publish(self, receipt: Receipt) -> Receipt:
        staged = {self._name(name): path for name, path in self._staged.items()}
        stale = () if LEDGER in self._staged else (self._name(LEDGER),)
        mark = self._name(RECEIPT)
        theirs = self._store.folder.commit(staged, stale, mark, receipt.encode())
        if theirs is None:
            return receipt
        return Receipt.decode(theirs, self._store.folder.spell(mark))

    def _receipt(
        self, files: Sequence[StoredFile], extra: Mapping[str, Any], libraries: Mapping[str, str]
    ) -> Receipt:
        source, key, partition = self._names
        return Receipt(
            source=source,
            key=key,
            partition=partition,
            type=str(self._type),
            rows=sum(map(len, self._valid)),
            nulls=sum(int((~valid).sum()) for valid in self._valid),
            files=tuple(files),
            libraries={**LIBRARIES, **libraries},
            extra=extra,
        )

    def _write_lengths(self) -> StoredFile:
        lengths = np.concatenate([np.zeros(0, np.uint32), *self._lengths])
        valid = np.concatenate([np.zeros(0, np.bool_), *self._valid])
        batch = pa.record_batch({"length": pa.array(lengths), "valid": pa.array(valid)})
        file = HashedFile(self._stage(LENGTHS))
        try:
            with pa.ipc.new_file(pa.PythonFile(file, "w"), batch.schema) as writer:
                writer.write_batch(batch)
            return file.finish(LENGTHS)
        finally:
            file.abandon()

    def _write_ledger(self, entries: Sequence[LedgerEntry], graph: str) -> StoredFile:
        return write_ledger(self._stage(LEDGER), entries, graph)

    def _stage(self, name: str) -> Path:
        self._staged[name] = self._store.folder.stage(self._name(name))
        return self._staged[name]

    def _name(self, name: str) -> str:
        return self._store.file_name(*self._names, name)

    def _clean(self) -> None:
        for path in self._staged.values():
            remove(path)


def _open_body(path: Path, type_: Type) -> Body:
    if type_.layout is Layout.DENSE:
        return ZarrWriter(path, tuple(int(axis) for axis in type_.shape), type_.dtype)
    return ArrowWriter(path, arrow_type(type_))
