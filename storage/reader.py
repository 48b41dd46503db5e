"""Reading columns: many partitions as one array of rows, in memory-mapped files.

Rows are numbered over the partitions in the order given. Opening a column compares the size of every file
with its receipt, which shows truncation; flipped bytes are found when they are first touched (`touch`). Behind
a URL, values are fetched partition by partition when rows of them are asked for, and compared then.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..graph.errors import Problem, StoreError
from ..graph.type import Type
from .arrow_file import arrow_type, read_batches, read_values
from .body import Blocks, Body, DamagedRowError, FixedBody, Gathered, make_body, take_rows
from .cache import Cache
from .column import LENGTHS, read_receipts
from .far import FarBody
from .memory import Mapped
from .receipt import LEDGER, Receipt
from .store import Store
from .touch import FirstTouch, MappedFile, check_whole, find_rows
from .zarr_file import ShardLayout

METADATA: Final = "zarr/zarr.json"
OPEN_SHARE: Final = 8
"""A column behind a URL holds partitions open that are at most this part of the cache."""


def open_column(store: Store, source: str, key: str, partitions: Sequence[str]) -> ColumnReader:
    """Return the rows of ``partitions``, in that order, of column ``key``.

    Raises:
        StoreError: Some partitions were never built (T0507), or a file is gone or truncated (T0504).
    """
    receipts = read_receipts(store, source, key, partitions)
    if missing := [p for p, r in zip(partitions, receipts, strict=True) if r is None]:
        message = (
            f"column {source}/{key} lacks {len(missing)} of {len(partitions)} partitions, "
            f"first {missing[0]}"
        )
        raise StoreError.of("T0507", message, "build again: only these are built")
    found = [receipt for receipt in receipts if receipt is not None]
    _check_sizes(store, found)
    return ColumnReader(store, found, in_parts=not store.folder.is_near)


def damage(store: Store, receipt: Receipt, name: str, why: str, rows: str = "") -> Problem:
    """Return the problem with the file ``name`` of a partition.

    Args:
        store: Where.
        receipt: The receipt of the partition.
        name: The file, as the receipt calls it.
        why: What is wrong with it.
        rows: Rows of the partition that are concerned, such as ``"0-99"``.
    """
    place, mark = (
        store.folder.spell(store.file_name(receipt.source, receipt.key, receipt.partition, each))
        for each in (name, "receipt")
    )
    return Problem(
        "T0504",
        f"{place} is damaged: {why}",
        f"delete {mark} and build again: only this partition is rebuilt",
        row=f"{receipt.partition}:{rows}" if rows else receipt.partition,
        column=f"{receipt.source}/{receipt.key}",
    )


class ColumnReader:
    """The rows of one column; get one from `open_column`."""

    def __init__(
        self, store: Store, receipts: Sequence[Receipt], *, in_parts: bool = False
    ) -> None:
        self._store = store
        self._receipts = receipts
        self._partitions = Blocks.of([receipt.rows for receipt in receipts if receipt.rows])
        self._filled = [receipt for receipt in receipts if receipt.rows]
        self._arrays: list[Any] = []
        self._type: Any = pa.null()
        self._is_dense = any(file.name == METADATA for r in receipts for file in r.files)
        self._mapped: list[MappedFile] = []
        self._far = self._open_far() if in_parts and self._filled else None
        self._body: Body = self._far or (
            self._open_dense() if self._is_dense else self._open_arrow()
        )
        self._touch = FirstTouch(self._mapped, self._arrays, self._damage)

    @property
    def partitions(self) -> list[tuple[str, int]]:
        """Id and number of rows of each partition that has rows, in their order."""
        return [(receipt.partition, receipt.rows) for receipt in self._filled]

    @property
    def num_rows(self) -> int:
        """Rows of the column, whatever their validity."""
        return int(self._partitions.edges[-1])

    @property
    def partition_edges(self) -> npt.NDArray[np.int64]:
        """Where the partitions that have rows begin and end, shape ``(num_partitions + 1,)``."""
        return self._partitions.edges

    @property
    def mean_row_bytes(self) -> float:
        """Bytes of all files over rows."""
        return sum(receipt.bytes for receipt in self._filled) / max(1, self.num_rows)

    @property
    def type(self) -> str:
        """Type of the values, as the graph spells it; empty without partitions."""
        return self._receipts[0].type if self._receipts else ""

    @property
    def lengths(self) -> npt.NDArray[np.uint32]:
        """Length of each row's value, shape ``(num_rows,)``.

        Items of a list, bytes of a text, 1 for other values; 0 for null.
        """
        return self._lengths

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which rows have a value, shape ``(num_rows,)``."""
        return self._valid

    @cached_property
    def _lengths(self) -> npt.NDArray[np.uint32]:
        parts = [np.asarray(batch.column("length")) for batch in self._sidecars]
        return np.concatenate([np.zeros(0, np.uint32), *parts])

    @cached_property
    def _valid(self) -> npt.NDArray[np.bool_]:
        parts = [batch.column("valid").to_numpy(zero_copy_only=False) for batch in self._sidecars]
        return np.concatenate([np.zeros(0, np.bool_), *parts])

    def gather(self, rows: npt.NDArray[np.int64], /) -> Gathered:
        """Return ``rows`` in the order given, whatever partitions they lie in; null is nothing, or zero.

        Returns:
            For lists the values end to end, shape ``(total,)`` or ``(total, size)``, and the offsets, shape
            ``(len(rows) + 1,)``; for text and bytes likewise, as ``uint8``. For numbers and dense values one
            array, shape ``(len(rows), *shape)``. Values of lists cannot be written to.

        Raises:
            IndexError: A row is out of range.
            StoreError: The values have no form as numbers (T0508), or a file is damaged (T0504).
        """
        rows = self._check_rows(rows)
        self._touch.check(rows)
        try:
            return self._body.gather(rows)
        except TypeError as error:
            message = f"{self.type or 'nothing'} cannot be gathered: {error}"
            raise StoreError.of("T0508", message, "use take(), which gives Arrow values") from error
        except DamagedRowError as error:
            block, position = self._partitions.find(np.array([error.row]))
            receipt = self._filled[int(block[0])]
            row = str(int(position[0]))
            why = f"row {row} points outside it"
            raise StoreError(damage(self._store, receipt, "arrow", why, row)) from error

    def read_ahead(self, partitions: Iterable[int]) -> None:
        """Ask the operating system to read the values of ``partitions``, numbered as their edges are.

        It returns at once, and does nothing where there is no such request, or the values lie behind a URL.
        """
        folder = self._store.folder
        if not folder.is_near or not hasattr(os, "posix_fadvise"):
            return
        for number in partitions:
            receipt = self._filled[number]
            for file in receipt.files:
                name = self._store.file_name(
                    receipt.source, receipt.key, receipt.partition, file.name
                )
                with folder.borrowed(name, file.xxh3, file.bytes) as path:
                    _will_need(path)

    def take(self, rows: npt.NDArray[np.int64]) -> Any:
        """Return ``rows`` as one Arrow array, null where there is no value. Slower than `gather`.

        Raises:
            IndexError: A row is out of range.
        """
        rows = self._check_rows(rows)
        if self._far:
            return self._far.take(rows)
        self._touch.check(rows)
        if not self._is_dense:
            return take_rows(self._arrays, rows, self._type)
        values: Any = self._body.gather(rows)
        item = pa.from_numpy_dtype(values.dtype)
        shape = values.shape[1:]
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), math.prod(shape))
        present = pa.array(np.arange(len(rows)), mask=~self.valid[rows])
        type_ = pa.fixed_shape_tensor(item, shape)
        return pa.ExtensionArray.from_storage(type_, lists.take(present))

    def scalars(self) -> npt.NDArray[Any]:
        """Return the values of all rows of a column of numbers or truth values, shape ``(num_rows,)``.

        Raises:
            StoreError: A row holds more than one.
        """
        values = self.gather(np.arange(self.num_rows))
        if isinstance(values, tuple) or values.ndim != 1:
            raise StoreError.of("T0508", f"{self.type} is more than one number for each row")
        return values

    @cached_property
    def _sidecars(self) -> list[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = []
        for receipt in self._filled:
            (batch,) = self._map(receipt, LENGTHS, read_batches)[1]
            if batch.num_rows != receipt.rows:
                why = f"it has {batch.num_rows} rows instead of {receipt.rows}"
                raise StoreError(damage(self._store, receipt, LENGTHS, why))
            batches.append(batch)
        return batches

    def _check_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.num_rows}")
        return rows

    def _open_far(self) -> FarBody:
        self._check_one(sorted({receipt.type for receipt in self._filled}))
        return FarBody(
            self._partitions,
            [receipt.bytes for receipt in self._filled],
            Cache.of_user(self._store.access.cache_bytes).num_bytes // OPEN_SHARE,
            lambda number: ColumnReader(self._store, [self._filled[number]]),
        )

    def _open_arrow(self) -> Body:
        types: dict[str, Any] = {}
        # Partitions are many, and their types few.
        spelled = {receipt.type for receipt in self._receipts}
        promised = {each: arrow_type(Type.parse(each)) for each in spelled}
        for receipt in self._receipts:
            read = partial(read_values, promised[receipt.type])
            schema, batches = self._map(receipt, "arrow", read)
            self._arrays += [batch.column(0) for batch in batches if batch.num_rows]
            if sum(batch.num_rows for batch in batches) != receipt.rows:
                why = f"it does not hold the {receipt.rows} rows of its receipt"
                rows = find_rows(self._mapped[-1]) if self._mapped else ""
                raise self._damage(receipt, "arrow", why, rows)
            if receipt.rows or not self.num_rows:
                types[str(schema.field(0).type)] = schema.field(0).type
        if len(types) > 1:
            for file in self._mapped:  # damage may be what makes them differ
                check_whole(file, self._damage)
        self._check_one(list(types))
        self._type = next(iter(types.values()), pa.null())
        return make_body(self._arrays, self._type)

    def _open_dense(self) -> Body:
        mapped: list[Mapped] = []
        sizes: list[int] = []
        kinds: set[tuple[Any, tuple[int, ...]]] = set()
        for receipt in self._receipts:
            layout = self._map(receipt, METADATA, lambda data: ShardLayout.parse(bytes(data)))
            kinds.add((layout.dtype, layout.shape))
            for number in range(layout.num_shards):
                name = f"zarr/{layout.shard_name(number)}"
                mapped.append(self._map(receipt, name, _shard_reader(layout, number)))
                sizes.append(layout.rows_in(number))
        self._check_one([f"{dtype}{list(shape)}" for dtype, shape in kinds])
        ((dtype, shape),) = kinds
        return FixedBody(Blocks.of(sizes), mapped, dtype, shape)

    def _check_one(self, kinds: Sequence[str]) -> None:
        if len(kinds) > 1:
            receipt = self._receipts[0]
            message = f"partitions of column {receipt.source}/{receipt.key} differ: {sorted(kinds)}"
            raise StoreError.of("T0508", message, "build again after the source has settled")

    def _map(self, receipt: Receipt, name: str, read: Callable[[pa.Buffer], Any]) -> Any:
        """Return what ``read`` makes of a file's content, which stays mapped as long as it is needed."""
        path = self._store.file_name(receipt.source, receipt.key, receipt.partition, name)
        (stored,) = (file for file in receipt.files if file.name == name)
        try:
            # The buffer keeps the mapping, so the file need not stay open: columns have many files.
            with (
                self._store.folder.borrowed(path, stored.xxh3, stored.bytes) as here,
                pa.memory_map(str(here)) as file,
            ):
                mapped = MappedFile(receipt, stored, file.read_buffer())
        except (OSError, ValueError) as error:
            raise self._damage(receipt, name, str(error), "") from error
        try:
            made = read(mapped.content)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise self._damage(receipt, name, str(error), find_rows(mapped)) from error
        if stored.blocks:
            self._mapped.append(mapped)
        else:
            check_whole(mapped, self._damage)
        return made

    def _damage(self, receipt: Receipt, name: str, why: str, rows: str) -> StoreError:
        return StoreError(damage(self._store, receipt, name, why, rows))


def _check_sizes(store: Store, receipts: Sequence[Receipt]) -> None:
    """Compare the size of every file with its receipt."""
    files = {
        store.file_name(receipt.source, receipt.key, receipt.partition, file.name): (receipt, file)
        for receipt in receipts
        for file in receipt.files
        if file.name != LEDGER  # rows that failed, not needed to read those that did not
    }
    if not files:
        return
    sizes = store.folder.sizes(store.column_folder(receipts[0].source, receipts[0].key), files)
    for name, (receipt, file) in files.items():
        if (size := sizes.get(name, 0)) != file.bytes:
            why = f"it has {size} bytes instead of {file.bytes}"
            raise StoreError(damage(store, receipt, file.name, why))


def _will_need(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _shard_reader(layout: ShardLayout, number: int) -> Callable[[pa.Buffer], Mapped]:
    def read(content: pa.Buffer) -> Mapped:
        index = layout.index(number)
        num_chunks = -(-layout.rows_in(number) // layout.chunk_rows)
        size = num_chunks * layout.chunk_rows * layout.row_bytes
        if content.size != size + len(index) or content[size:].to_pybytes() != index:
            raise ValueError("its index is not that of its array")
        return Mapped(content.address, size, content)

    return read
