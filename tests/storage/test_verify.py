"""Verification finds any damage and says where it is."""

from __future__ import annotations

import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import Problem
from taskloom.storage import arrow_file, zarr_file
from taskloom.storage.column import open_writer, read_receipt
from taskloom.storage.ledger import LedgerEntry
from taskloom.storage.source import register_source
from taskloom.storage.store import Store
from taskloom.storage.verify import verify, verify_column

from .columns import IDS, IMAGES, ids, tensors, write_column

ROWS = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a column of each format, a ledger, captured rows and an artifact."""
    store = Store.create(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow_file, "BATCH_ROWS", 8)
        patch.setattr(zarr_file, "CHUNK_BYTES", 18 * 6)
        patch.setattr(zarr_file, "SHARD_BYTES", 18 * 12)
        pixels = np.random.default_rng(0).integers(0, 255, (ROWS, 3, 2, 3), np.uint8)
        write_column(store, "images", "p0", IMAGES, tensors(pixels))
        entry = LedgerEntry(offset=3, node="n", problem=Problem("T0301", "no image"))
        with open_writer(store, "s", "ids", "p0", IDS) as writer:
            writer.write(ids([[i, i + 1] for i in range(ROWS)]))
            writer.commit([entry])
    register_source(store, "s", [{"a": i} for i in range(ROWS)])
    store.pin("bpe", "bpe", b"merges")
    return store


def test_a_whole_store_has_no_problems(whole: Store) -> None:
    report = verify(whole)
    assert report.problems == ()
    assert (report.columns, report.partitions) == (2, 2)
    assert re.fullmatch(r"verified 2 partitions of 2 columns, .* kB: no problems", str(report))


@given(data=st.data())
@settings(max_examples=150)
@pytest.mark.parametrize("key", ["ids", "images"])
def test_any_flipped_byte_or_truncation_is_reported_with_its_place(
    whole: Store, key: str, data: st.DataObject
) -> None:
    receipt = read_receipt(whole, "s", key, "p0")
    assert receipt is not None
    file = data.draw(st.sampled_from(receipt.files))
    position = data.draw(st.integers(0, file.bytes - 1))
    path = whole.path / whole.file_name("s", key, "p0", file.name)
    content = path.read_bytes()
    if data.draw(st.booleans()):
        flipped = content[position] ^ (1 << data.draw(st.integers(0, 7)))
        path.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
    else:
        path.write_bytes(content[:position])
    try:
        problems = list(verify_column(whole, "s", key))
    finally:
        path.write_bytes(content)
    assert problems
    for problem in problems:
        assert problem.code == "T0504"
        assert str(path) in problem.message
        assert problem.column == f"s/{key}"
    blocks = [b for b in file.blocks if b.offset <= position < b.offset + b.bytes]
    for block in blocks:
        assert f"p0:{block.row}-{block.row + block.rows - 1}" in {p.row for p in problems}
    assert list(verify_column(whole, "s", key)) == []


def test_blocks_number_the_rows_of_the_partition(whole: Store) -> None:
    receipt = read_receipt(whole, "s", "images", "p0")
    assert receipt is not None
    blocks = [block for file in receipt.files for block in file.blocks]
    assert [(block.row, block.rows) for block in blocks] == [(0, 6), (6, 6), (12, 6), (18, 2)]


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        pytest.param("columns/s/ids/p0.receipt", "p0.receipt is damaged", id="receipt"),
        pytest.param("sources/s/*.arrow", "does not match its checksum", id="captured rows"),
        pytest.param("sources/s/source.json", "source.json is damaged", id="source record"),
        pytest.param("artifacts/*.bin", "does not match its name", id="artifact"),
        pytest.param("artifacts/bpe.json", "bpe.json is damaged", id="pin"),
    ],
)
def test_damage_outside_of_columns_is_reported(whole: Store, pattern: str, place: str) -> None:
    (path,) = whole.path.glob(pattern)
    content = path.read_bytes()
    path.write_bytes(b"\0" + content[1:])
    try:
        problems = verify(whole).problems
    finally:
        path.write_bytes(content)
    assert [problem.code for problem in problems] == ["T0504"]
    assert str(path) in problems[0].message
    assert re.search(place, problems[0].message)


def test_a_missing_file_is_reported_and_a_deleted_receipt_makes_room(
    whole: Store, tmp_path: Path
) -> None:
    del whole
    store = Store.create(tmp_path)
    write_column(store, "k", "p0", IDS, ids([[1]]))
    (store.path / store.file_name("s", "k", "p0", "arrow")).unlink()
    (problem,) = verify(store).problems
    assert problem.message.endswith("p0.arrow is damaged: it is gone")
    receipt = re.search(r"delete (\S+) and build again", problem.help)
    assert receipt is not None
    Path(receipt[1]).unlink()
    assert store.missing("s", "k", ["p0"]) == ("p0",)
    write_column(store, "k", "p0", IDS, ids([[1]]))
    assert verify(store).problems == ()
