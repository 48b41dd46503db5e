"""Scalars and ragged values as one uncompressed Arrow IPC file, laid out by the rows alone.

However the rows arrive, record batches end at the same ones, and equal values are equal bytes: what lies hidden
under a null, beside a slice or after the end of a bitmap is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..graph.type import Layout, Type
from .batches import cut_points, row_bytes
from .hashed import HashedFile
from .receipt import StoredFile

BATCH_ROWS: Final = 65_536
BATCH_BYTES: Final = 16 << 20
FIELD: Final = "value"

is_type = pa.types


def arrow_type(type_: Type) -> pa.DataType | None:
    """Return how Arrow spells values of ``type_``; none if it leaves that to the values.

    One ragged dimension is a list; several are the bytes of each array with its shape.
    """
    try:
        item = pa.type_for_alias(type_.dtype)
    except ValueError:
        return None
    num_named = sum(isinstance(axis, str) for axis in type_.shape)
    if type_.layout is Layout.RAGGED and num_named > 1:
        shape = pa.list_(pa.int32(), len(type_.shape))
        return pa.struct([("data", pa.large_binary()), ("shape", shape)])
    fixed = [axis for axis in type_.shape if isinstance(axis, int)]
    if fixed:
        item = pa.list_(item, int(np.prod(fixed)))
    return pa.list_(item) if type_.layout is Layout.RAGGED else item


def value_lengths(array: Any) -> npt.NDArray[np.uint32]:
    """Return the length of each row's value, shape ``(len(array),)``.

    The length of a list is its items, of text and bytes its bytes, of other values 1; of null it is 0.
    """
    type_ = array.type
    if is_type.is_struct(type_) and "data" in {
        type_.field(i).name for i in range(type_.num_fields)
    }:
        return value_lengths(array.field("data")) * np.asarray(array.is_valid(), np.uint32)
    if is_type.is_list(type_) or is_type.is_large_list(type_):
        lengths = pc.call_function("list_value_length", [array])
    elif is_type.is_binary(type_) or is_type.is_large_binary(type_) or is_type.is_string(type_):
        lengths = pc.call_function("binary_length", [array])
    else:
        lengths = array.is_valid()
    lengths = pc.fill_null(lengths, False if lengths.type == pa.bool_() else 0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.uint32)


def read_batches(content: pa.Buffer) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Return the schema and the record batches of a file; they share its memory.

    Raises:
        ArrowInvalid: It is damaged.
    """
    reader = pa.ipc.open_file(content)
    batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    for batch in batches:
        batch.validate()
    return reader.schema, batches


def read_values(
    promised: pa.DataType | None, content: pa.Buffer
) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Return what `read_batches` does, of a file that `ArrowWriter` wrote.

    Args:
        promised: Type of the values; None if nobody knows it.
        content: The file.

    Raises:
        ArrowInvalid: It is damaged.
        ValueError: So is what it says of its column.
    """
    schema, batches = read_batches(content)
    if schema.names != [FIELD]:
        raise ValueError(f"its columns are {schema.names} instead of {[FIELD]}")
    if str(found := schema.field(0).type) != str(promised or found):
        raise ValueError(f"its values are {found} instead of {promised}")
    return schema, batches


class ArrowWriter:
    """Writes the rows of one partition to one file."""

    def __init__(self, path: Path, type_: pa.DataType | None) -> None:
        self._path = path
        self._type = type_
        self._file = HashedFile(path)
        self._writer: Any = None
        self._pending: list[Any] = []
        self._pending_rows = 0
        self._pending_bytes = 0

    def write(self, array: Any) -> None:
        """Append the rows of ``array``.

        Raises:
            TypeError: It is of another type than promised.
        """
        if self._type is None:
            self._type = array.type
        if not array.type.equals(self._type):
            raise TypeError(f"values are {array.type} instead of {self._type}")
        sizes = row_bytes(array)
        points = cut_points(sizes, self._pending_rows, self._pending_bytes, BATCH_ROWS, BATCH_BYTES)
        begin = 0
        for point in points:
            self._pending.append(array.slice(begin, point - begin))
            self._flush()
            begin = point
        if begin < len(array):
            self._pending.append(array.slice(begin))
            self._pending_rows += len(array) - begin
            self._pending_bytes += int(sizes[begin:].sum())

    def finish(self) -> list[StoredFile]:
        """Flush everything to the disk and return what was written."""
        if self._pending:
            self._flush()
        self._open().close()
        return [self._file.finish("arrow")]

    def close(self) -> None:
        """Give up."""
        self._file.abandon()

    def _open(self) -> Any:
        if self._writer is None:
            schema = pa.schema([(FIELD, self._type or pa.null())])
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), schema)
        return self._writer

    def _flush(self) -> None:
        writer = self._open()
        rows = pa.concat_arrays(self._pending)
        # Taking every row copies the values alone.
        clean = rows.take(pa.array(np.arange(len(rows))))
        self._file.begin_block()
        writer.write_batch(pa.RecordBatch.from_arrays([clean], names=[FIELD]))
        self._file.end_block(len(rows))
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0
