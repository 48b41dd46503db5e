"""The values of a column's partitions, by how they lie in memory: fixed, bits, ragged or nested.

A *block* is one Arrow record batch or one Zarr shard. Blocks follow one another in the order of the rows; a row
is found by its block and its position there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .memory import Ints, Mapped, Memory

Gathered: TypeAlias = "tuple[npt.NDArray[Any], Ints] | npt.NDArray[Any]"
"""Ragged rows as (values, offsets), others as one array with the rows first."""

is_type = pa.types


class DamagedRowError(Exception):
    """A row's place lies outside its file."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class Body(Protocol):
    """The values of all rows."""

    def gather(self, rows: Ints) -> Gathered:
        """Return ``rows``, which are in range.

        Raises:
            TypeError: Values are neither numbers nor lists of numbers nor bytes.
            DamagedRowError: A row's place lies outside its file.
        """
        ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where blocks begin and end, in rows: shape ``(num_blocks + 1,)``."""

    edges: Ints

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Blocks:
        """Return the blocks with these numbers of rows; empty ones must be left out."""
        return cls(np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]))

    def find(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return the block of each row, and its position there."""
        block = np.searchsorted(self.edges, rows, side="right") - 1
        return block, rows - self.edges[block]


class FixedBody:
    """Rows of one size, such as numbers, boxes and pixels."""

    def __init__(
        self,
        blocks: Blocks,
        mapped: Sequence[Mapped],
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self._blocks = blocks
        self._row_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._memory = Memory(mapped)
        self._begins = self._memory.offsets([block.address for block in mapped])

    def gather(self, rows: Ints) -> npt.NDArray[Any]:
        """Return ``rows``, shape ``(len(rows), *shape)``."""
        block, position = self._blocks.find(rows)
        offsets = self._begins[block] + position * self._row_bytes
        taken = self._memory.take_rows(offsets, self._row_bytes)
        return taken.view(self.dtype).reshape(len(rows), *self.shape)


class BitBody:
    """Truth values, eight to a byte."""

    def __init__(self, blocks: Blocks, arrays: Sequence[Any]) -> None:
        mapped = [_mapped(array.buffers()[1], array) for array in arrays]
        self._blocks = blocks
        self._memory = Memory(mapped)
        self._begins = self._memory.offsets([block.address for block in mapped])

    def gather(self, rows: Ints) -> npt.NDArray[np.bool_]:
        """Return ``rows``, shape ``(len(rows),)``."""
        block, position = self._blocks.find(rows)
        taken = self._memory.take_rows(self._begins[block] + (position >> 3), 1)[:, 0]
        return (taken >> (position & 7).astype(np.uint8) & 1).astype(np.bool_)


class RaggedBody:
    """Lists of numbers, lists of rows of one size, text and bytes."""

    def __init__(self, blocks: Blocks, arrays: Sequence[Any], type_: Any) -> None:
        is_large = is_type.is_large_list(type_) or is_type.is_large_binary(type_)
        item: Any = pa.uint8() if _is_bytes(type_) else type_.value_type
        self.shape = (item.list_size,) if is_type.is_fixed_size_list(item) else ()
        self.dtype = np.dtype((item.value_type if self.shape else item).to_pandas_dtype())
        self._blocks = blocks
        width = int(np.prod(self.shape, dtype=np.int64))
        offsets = [_mapped(array.buffers()[1], array) for array in arrays]
        values = [_mapped(array.buffers()[-1], array) for array in arrays]
        self._width = width
        self._memory = Memory([*offsets, *values])
        self._offsets = self._memory.elements(np.dtype(np.int64 if is_large else np.int32))
        begins = self._memory.offsets([block.address for block in offsets])
        self._begins = begins // self._offsets.dtype.itemsize
        values_at = self._memory.offsets([block.address for block in values])
        self._values_at = values_at // self.dtype.itemsize
        self._limits = np.array([block.bytes // self.dtype.itemsize for block in values], np.int64)

    def gather(self, rows: Ints) -> tuple[npt.NDArray[Any], Ints]:
        """Return the values of ``rows`` end to end, and where each row begins and ends."""
        block, position = self._blocks.find(rows)
        places = self._begins[block] + position
        begins = self._offsets[places].astype(np.int64)
        sizes = self._offsets[places + 1].astype(np.int64) - begins
        ends = (begins + sizes) * self._width
        # A flipped byte in an offset must not become an address outside the file.
        wrong = (begins < 0) | (sizes < 0) | (ends > self._limits[block])
        if wrong.any():
            raise DamagedRowError(int(rows[wrong.argmax()]))
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        begins = self._values_at[block] + begins * self._width
        values = self._memory.take_spans(begins, sizes * self._width, self.dtype)
        return values.reshape(-1, *self.shape), offsets


class NestedBody:
    """Values that only Arrow can hold."""

    def __init__(self, type_: pa.DataType) -> None:
        self._type = type_

    def gather(self, rows: Ints) -> Gathered:
        """Refuse.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"{len(rows)} rows of {self._type} have no form as arrays of numbers")


def make_body(arrays: Sequence[Any], type_: Any) -> Body:
    """Return the values in ``arrays``, none of them empty or sliced, all of ``type_``."""
    blocks = Blocks.of([len(array) for array in arrays])
    if is_type.is_boolean(type_):
        return BitBody(blocks, arrays)
    if _is_number(type_):
        mapped = [_mapped(array.buffers()[1], array) for array in arrays]
        return FixedBody(blocks, mapped, np.dtype(type_.to_pandas_dtype()), ())
    if is_type.is_fixed_size_list(type_) and _is_number(type_.value_type):
        mapped = [_mapped(array.buffers()[-1], array) for array in arrays]
        dtype = np.dtype(type_.value_type.to_pandas_dtype())
        return FixedBody(blocks, mapped, dtype, (type_.list_size,))
    if _is_bytes(type_) or _is_ragged(type_):
        return RaggedBody(blocks, arrays, type_)
    return NestedBody(type_)


def take_rows(arrays: Sequence[Any], rows: Ints, type_: pa.DataType) -> Any:
    """Return ``rows`` of ``arrays`` as one Arrow array, nulls and all."""
    blocks = Blocks.of([len(array) for array in arrays])
    block, position = blocks.find(rows)
    order = np.argsort(block, kind="stable")
    edges = np.flatnonzero(np.diff(block[order])) + 1
    parts = [
        arrays[int(block[part[0]])].take(pa.array(position[part]))
        for part in np.split(order, edges)
        if len(part)
    ]
    if not parts:
        return pa.array([], type_)
    return pa.concat_arrays(parts).take(pa.array(np.argsort(order, kind="stable")))


def _mapped(buffer: Any, owner: object) -> Mapped:
    return Mapped(0, 0, owner) if buffer is None else Mapped(buffer.address, buffer.size, owner)


def _is_number(type_: Any) -> bool:
    return is_type.is_integer(type_) or is_type.is_floating(type_)


def _is_bytes(type_: Any) -> bool:
    return is_type.is_string(type_) or is_type.is_binary(type_) or is_type.is_large_binary(type_)


def _is_ragged(type_: Any) -> bool:
    if not is_type.is_list(type_) and not is_type.is_large_list(type_):
        return False
    item = type_.value_type
    return _is_number(item) or (is_type.is_fixed_size_list(item) and _is_number(item.value_type))
