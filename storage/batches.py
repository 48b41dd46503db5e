"""Sizes of rows, and record batches cut by them, so that memory is bounded whatever rows hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

READ_ROWS: Final = 1024
READ_BYTES: Final = 32 << 20

is_type = pa.types


def row_bytes(array: Any) -> npt.NDArray[np.int64]:
    """Return how many bytes each row of ``array`` takes, shape ``(len(array),)``; offsets not counted."""
    type_ = array.type
    if isinstance(array, pa.ExtensionArray):
        return row_bytes(array.storage)
    if _is_bytes(type_):
        return _filled(pc.call_function("binary_length", [array]))
    if is_type.is_list(type_) or is_type.is_large_list(type_):
        return _list_bytes(array)
    if is_type.is_fixed_size_list(type_):
        items = array.values.slice(array.offset * type_.list_size, len(array) * type_.list_size)
        return row_bytes(items).reshape(len(array), type_.list_size).sum(axis=1)
    if is_type.is_struct(type_):
        sizes = [row_bytes(array.field(i)) for i in range(type_.num_fields)]
        return np.sum(sizes, axis=0) if sizes else np.zeros(len(array), np.int64)
    return np.full(len(array), -(-_bit_width(type_) // 8), np.int64)


def cut_points(
    sizes: npt.NDArray[np.int64], rows: int, size: int, max_rows: int, max_bytes: int
) -> list[int]:
    """Return after which rows a piece ends, where pieces hold up to ``max_rows`` and end at ``max_bytes``.

    Where pieces end depends on the rows alone, not on how they arrive: ``rows`` and ``size`` (in bytes) say
    what the piece in progress holds already.
    """
    ends = np.cumsum(sizes)
    points: list[int] = []
    begin = 0
    while begin < len(sizes):
        before = int(ends[begin - 1]) if begin else 0
        heavy = int(np.searchsorted(ends, before + max_bytes - size)) + 1
        point = min(heavy, begin + max_rows - rows)
        if point > len(sizes):
            break
        points.append(point)
        begin, rows, size = point, 0, 0
    return points


def small_batches(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut ``batch`` into record batches of at most `READ_ROWS` rows, that end when they reach `READ_BYTES`."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        sizes += row_bytes(column)
    begin = 0
    for end in [*cut_points(sizes, 0, 0, READ_ROWS, READ_BYTES), batch.num_rows]:
        if end > begin:
            yield batch.slice(begin, end - begin)
        begin = end


def _list_bytes(array: Any) -> npt.NDArray[np.int64]:
    lengths = _filled(pc.call_function("list_value_length", [array]))
    items = array.flatten()
    if _is_fixed_width(items.type):
        return lengths * -(-_bit_width(items.type) // 8)
    ends = np.concatenate([[0], np.cumsum(row_bytes(items))])
    stops = np.cumsum(lengths)
    return ends[stops] - ends[stops - lengths]


def _filled(lengths: Any) -> npt.NDArray[np.int64]:
    return pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _is_bytes(type_: Any) -> bool:
    tests = (
        is_type.is_string,
        is_type.is_binary,
        is_type.is_large_string,
        is_type.is_large_binary,
    )
    return any(test(type_) for test in tests)


def _is_fixed_width(type_: Any) -> bool:
    return is_type.is_primitive(type_)


def _bit_width(type_: Any) -> int:
    try:
        return type_.bit_width
    except ValueError:  # null, views, dictionaries: nothing, or no more than a pointer
        return 0 if is_type.is_null(type_) else 64
