"""A flipped byte is found when it is first touched, named, and found only once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings

from taskloom.graph.errors import StoreError
from taskloom.storage import arrow_file, zarr_file
from taskloom.storage.column import read_receipt
from taskloom.storage.reader import ColumnReader, open_column
from taskloom.storage.store import Store
from taskloom.storage.verify import verify_column

from .columns import IDS, IMAGES, ids, memory_folder, tensors, write_column

ROWS, PARTITIONS = 12, ("p0", "p1")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Two columns of two partitions; those of ids are four record batches each, those of images two chunks."""
    rng = np.random.default_rng(7)
    with memory_folder() as folder:
        store = Store.create(Path(folder) / "store")
        for partition in PARTITIONS:
            batches = [ids([rng.integers(0, 99, 5).tolist()] * 3) for _ in range(4)]
            with mock.patch.object(arrow_file, "BATCH_ROWS", 3):
                write_column(store, "ids", partition, IDS, *batches)
            pixels = tensors(rng.integers(0, 256, (ROWS, 3, 2, 3)).astype(np.uint8))
            with mock.patch.object(zarr_file, "CHUNK_BYTES", 6 * 18):
                write_column(store, "images", partition, IMAGES, pixels)
        yield store


def read_all(store: Store, key: str, partitions: Sequence[str] = PARTITIONS) -> ColumnReader:
    """Read all that a loader reads of a column, a few rows at a time."""
    reader = open_column(store, "s", key, partitions)
    assert reader.valid.all()
    assert len(reader.lengths) == reader.num_rows
    for rows in np.array_split(np.random.default_rng(1).permutation(reader.num_rows), 5):
        reader.gather(rows)
    return reader


class Flipped:
    """A file with one bit that is another, until the end of a ``with`` block."""

    def __init__(self, path: Path, position: int, bit: int) -> None:
        self._path, self._content = path, path.read_bytes()
        self._new = bytearray(self._content)
        self._new[position] ^= 1 << bit

    def __enter__(self) -> None:
        self._path.write_bytes(self._new)

    def __exit__(self, *_: object) -> None:
        self._path.write_bytes(self._content)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("key", ["ids", "images"])
def test_any_flipped_bit_is_found_by_verify_and_by_reading(
    store: Store, key: str, data: st.DataObject
) -> None:
    receipt = read_receipt(store, "s", key, "p1")
    assert receipt is not None
    names = [file.name for file in receipt.files] + ["receipt"]
    path = store.path / store.file_name("s", key, "p1", data.draw(st.sampled_from(names)))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    with Flipped(path, position, data.draw(st.integers(0, 7))):
        found = list(verify_column(store, "s", key))
        with pytest.raises(StoreError) as caught:
            read_all(store, key)
    for problem in (*found[:1], *caught.value.problems):
        assert problem.code == "T0504"
        assert str(path) in problem.message
        if path.suffix != ".receipt":
            assert problem.column == f"s/{key}"
            assert problem.row.startswith("p1")
    assert found
    for block in (
        b for file in receipt.files if path.name.endswith(file.name) for b in file.blocks
    ):
        if block.offset <= position < block.offset + block.bytes:
            rows = f"p1:{block.row}-{block.row + block.rows - 1}"
            assert caught.value.problems[0].row == rows


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [PARTITIONS, PARTITIONS[1:]])
@pytest.mark.parametrize("key", ["ids", "images"])
def test_every_bit_of_what_describes_values_is_watched(
    store: Store, key: str, partitions: tuple[str, ...]
) -> None:
    receipt = read_receipt(store, "s", key, "p1")
    assert receipt is not None
    seen = 0
    for file in receipt.files:
        path = store.path / store.file_name("s", key, "p1", file.name)
        inside = {place for b in file.blocks for place in range(b.offset, b.offset + b.bytes)}
        for position in set(range(path.stat().st_size)) - inside:
            for bit in range(8):
                with Flipped(path, position, bit), pytest.raises(StoreError) as caught:
                    read_all(store, key, partitions)
                assert [problem.code for problem in caught.value.problems] == ["T0504"]
                assert caught.value.problems[0].row.startswith("p1")
                seen += 1
    assert seen > 5_000


def test_a_sound_column_is_compared_once(store: Store) -> None:
    for key, num_blocks in (("ids", 8), ("images", 4)):
        seen: list[Any] = []
        hash_block = xxhash.xxh3_64_hexdigest

        def count(content: Any, seen: list[Any] = seen, hash_block: Any = hash_block) -> Any:
            seen.append(content.address if hasattr(content, "address") else None)
            return hash_block(content)

        with mock.patch("taskloom.storage.touch.xxhash.xxh3_64_hexdigest", count):
            reader = read_all(store, key)
            for _ in range(3):
                reader.gather(np.arange(reader.num_rows))
        blocks = [address for address in seen if address is not None]
        assert len(blocks) == len(set(blocks)) == num_blocks


def test_blocks_that_nobody_touches_are_not_read(store: Store) -> None:
    path = store.path / store.file_name("s", "ids", "p1", "arrow")
    receipt = read_receipt(store, "s", "ids", "p1")
    assert receipt is not None
    (arrow,) = (file for file in receipt.files if file.name == "arrow")
    last = arrow.blocks[-1]
    with Flipped(path, last.offset + last.bytes - 1, 0):
        reader = open_column(store, "s", "ids", PARTITIONS)
        reader.gather(np.arange(reader.num_rows - last.rows))
        for _ in range(2):  # reading again finds it again
            with pytest.raises(StoreError, match=re.escape(f"rows {last.row}-")):
                reader.gather(np.array([reader.num_rows - 1]))


def test_receipts_without_a_seal_are_read(store: Store) -> None:
    path = store.path / store.file_name("s", "ids", "p0", "receipt")
    content = path.read_bytes()
    without = re.sub(rb',"seal":"[0-9a-f]{16}"', b"", content)
    assert without != content
    path.write_bytes(without)
    try:
        assert read_receipt(store, "s", "ids", "p0") is not None
    finally:
        path.write_bytes(content)
