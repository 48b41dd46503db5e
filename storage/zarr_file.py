"""Dense values as one uncompressed, sharded Zarr v3 array, written and read without a Zarr library.

Inner chunks hold whole rows and follow one another, so a shard is a C-ordered array of rows, padded to whole
chunks, and then its index. Any Zarr reader opens it; ours maps the shard into memory and takes rows by address.
Writing it here keeps memory to one chunk, bytes independent of a library's version, and workers quick to start.

Source: Zarr specification 3, and its sharding codec (ZEP 2): https://zarr-specs.readthedocs.io
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .files import make_directory, sync
from .hashed import HashedFile
from .receipt import StoredFile

CHUNK_BYTES: Final = 1 << 20
SHARD_BYTES: Final = 64 << 20

ABSENT: Final = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLayout:
    """How the rows of an array lie in shards.

    Attributes:
        rows: Rows of the array.
        shape: Shape of a row.
        dtype: Element type, little endian.
        chunk_rows: Rows of an inner chunk.
        shard_chunks: Inner chunks of a shard.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    shard_chunks: int

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def shard_rows(self) -> int:
        """Rows of a whole shard."""
        return self.chunk_rows * self.shard_chunks

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.rows // self.shard_rows)

    def shard_name(self, number: int) -> str:
        """Return the name of a shard's file in the array's folder."""
        return ".".join(["c", str(number), *("0" for _ in self.shape)])

    def rows_in(self, number: int) -> int:
        """Return how many rows shard ``number`` holds."""
        return min(self.shard_rows, self.rows - number * self.shard_rows)

    def index(self, number: int) -> bytes:
        """Return the index of shard ``number``: place and size of each chunk, and a checksum."""
        num_chunks = -(-self.rows_in(number) // self.chunk_rows)
        size = self.chunk_rows * self.row_bytes
        entries = np.full((self.shard_chunks, 2), ABSENT, "<u8")
        entries[:num_chunks, 0] = np.arange(num_chunks, dtype=np.uint64) * np.uint64(size)
        entries[:num_chunks, 1] = size
        content = entries.tobytes()
        return content + crc32c(content).to_bytes(4, "little")

    def metadata(self) -> bytes:
        """Return the content of ``zarr.json``."""
        endian = {} if self.dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": [self.chunk_rows, *self.shape],
            "codecs": [{"name": "bytes", **endian}],
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "end",
        }
        record = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.rows, *self.shape],
            "data_type": self.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.shard_rows, *self.shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": False if self.dtype == np.bool_ else 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
            "storage_transformers": [],
        }
        return f"{json.dumps(record, indent=2)}\n".encode()

    @classmethod
    def parse(cls, metadata: bytes) -> ShardLayout:
        """Return the layout that `metadata` wrote.

        Raises:
            ValueError: It is none of ours.
        """
        try:
            record = json.loads(metadata)
            rows, *shape = record["shape"]
            shard_rows = record["chunk_grid"]["configuration"]["chunk_shape"][0]
            chunk_rows = record["codecs"][0]["configuration"]["chunk_shape"][0]
            layout = cls(
                rows=rows,
                shape=tuple(shape),
                dtype=np.dtype(record["data_type"]).newbyteorder("<"),
                chunk_rows=chunk_rows,
                shard_chunks=shard_rows // chunk_rows,
            )
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"no array of ours: {error}") from error
        if layout.metadata() != metadata:
            raise ValueError("no array of ours")
        return layout


class ZarrWriter:
    """Writes the rows of one partition to one array."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self._path = path
        self._shape = shape
        self._dtype = np.dtype(pa.type_for_alias(dtype).to_pandas_dtype()).newbyteorder("<")
        self._row_bytes = max(1, math.prod(shape) * self._dtype.itemsize)
        self._chunk_rows = max(1, CHUNK_BYTES // self._row_bytes)
        self._shard_chunks = max(1, SHARD_BYTES // (self._chunk_rows * self._row_bytes))
        self._pending: list[npt.NDArray[Any]] = []
        self._pending_rows = 0
        self._rows = 0
        self._shard: HashedFile | None = None
        self._shard_rows = 0
        self._num_shards = 0
        self._files: list[StoredFile] = []
        make_directory(path)

    def write(self, array: Any) -> None:
        """Append the rows of ``array``, an Arrow array of fixed-shape tensors or fixed-size lists.

        Raises:
            TypeError: Rows are of another type or shape than promised.
        """
        rows = dense_rows(array, self._shape)
        if rows.dtype != self._dtype:
            raise TypeError(f"values are {rows.dtype} instead of {self._dtype}")
        while self._pending_rows + len(rows) > self._chunk_rows:
            taken = self._chunk_rows - self._pending_rows
            self._pending.append(rows[:taken])
            self._pending_rows += taken
            self._flush_chunk(self._chunk_rows)
            rows = rows[taken:]
        # The last chunk waits, in case it is the only one: then it holds just the rows there are.
        self._pending.append(rows)
        self._pending_rows += len(rows)

    def finish(self) -> list[StoredFile]:
        """Flush everything to the disk and return what was written."""
        layout = self._layout()
        if self._pending_rows:
            self._flush_chunk(layout.chunk_rows)
        self._finish_shard(layout)
        metadata = HashedFile(self._path / "zarr.json")
        metadata.write(layout.metadata())
        self._files.append(metadata.finish("zarr/zarr.json"))
        sync(self._path)
        return self._files

    def close(self) -> None:
        """Give up."""
        if self._shard is not None:
            self._shard.abandon()

    def _layout(self) -> ShardLayout:
        rows = self._rows + self._pending_rows
        chunk_rows = max(1, min(self._chunk_rows, rows))
        return ShardLayout(
            rows=rows,
            shape=self._shape,
            dtype=self._dtype,
            chunk_rows=chunk_rows,
            shard_chunks=max(1, min(self._shard_chunks, -(-rows // chunk_rows))),
        )

    def _flush_chunk(self, chunk_rows: int) -> None:
        if self._shard_rows == self._chunk_rows * self._shard_chunks:
            self._finish_shard(self._layout())
        if self._shard is None:
            name = ".".join(["c", str(self._num_shards), *("0" for _ in self._shape)])
            self._shard = HashedFile(self._path / name, self._rows)
        self._shard.begin_block()
        for rows in self._pending:
            self._shard.write(_bytes_of(rows))
        self._shard.write(bytes((chunk_rows - self._pending_rows) * self._row_bytes))
        self._shard.end_block(self._pending_rows)
        self._rows += self._pending_rows
        self._shard_rows += self._pending_rows
        self._pending, self._pending_rows = [], 0

    def _finish_shard(self, layout: ShardLayout) -> None:
        if self._shard is None:
            return
        self._shard.write(layout.index(self._num_shards))
        self._files.append(self._shard.finish(f"zarr/{self._shard.path.name}"))
        self._shard, self._shard_rows = None, 0
        self._num_shards += 1


def dense_rows(array: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the rows of a fixed-shape tensor or fixed-size list array, shape ``(N, values)``, null as zeros.

    Raises:
        TypeError: Rows have another shape.
    """
    given = (array.type.list_size,) if pa.types.is_fixed_size_list(array.type) else ()
    if isinstance(array, pa.FixedShapeTensorArray):
        given, array = tuple(array.type.shape), array.storage
    size = math.prod(shape)
    if given not in (shape, (size,)):
        raise TypeError(f"rows have shape {list(given)} instead of {list(shape)}")
    items = array.values.slice(array.offset * size, len(array) * size)
    if items.null_count:
        items = items.fill_null(pa.scalar(0, pa.int8()).cast(items.type))
    rows = items.to_numpy(zero_copy_only=False).reshape(len(array), size)
    if array.null_count:
        present = array.is_valid().to_numpy(zero_copy_only=False)
        rows = np.where(present[:, None], rows, np.zeros((), rows.dtype))
    return rows


def crc32c(content: bytes) -> int:
    """Return the CRC-32C of ``content``, for indexes of a few kilobytes."""
    state = 0xFFFFFFFF
    for byte in content:
        state = _CRC_TABLE[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def _crc_entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


def _bytes_of(rows: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


_CRC_TABLE: Final = tuple(map(_crc_entry, range(256)))
