"""Batches hold every row of an epoch once, padded, in an order that seed and epoch alone decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.graph.errors import LoaderError, StoreError
from taskloom.storage.prefetch import Prefetcher
from taskloom.storage.reader import ColumnReader, open_column
from taskloom.storage.row_batches import BatchConfig, RowBatches
from taskloom.storage.store import Store

from .columns import BOXES, IDS, IMAGES, SPLITS, ids, tensors, write_column

SIZES = (7, 1, 0, 12, 5)
NUM_ROWS = sum(SIZES)


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ColumnReader]:
    """Four columns over five partitions, one of which is empty; row ``n`` holds what `expected` says."""
    store = Store.create(tmp_path_factory.mktemp("rows"))
    types = {"ids": IDS, "boxes": BOXES, "image": IMAGES, "label": SPLITS}
    first = 0
    for number, size in enumerate(SIZES):
        values = make_values(range(first, first + size)) if size else {}
        for name, type_ in types.items():
            write_column(store, name, f"p{number}", type_, *values.get(name, ()))
        first += size
    names = [f"p{number}" for number in range(len(SIZES))]
    return {name: open_column(store, "s", name, names) for name in types}


def make_values(rows: range) -> dict[str, list[Any]]:
    """Return the arrays of each column that hold ``rows``."""
    boxes = [expected("boxes", row).tolist() for row in rows]
    pixels = np.array([expected("image", row) for row in rows], np.uint8)
    return {
        "ids": [ids([expected("ids", row).tolist() for row in rows])],
        "boxes": [pa.array(boxes, pa.list_(pa.list_(pa.float32(), 4)))],
        "image": [tensors(pixels)],
        "label": [pa.array([row % 5 for row in rows], pa.uint8())],
    }


def expected(name: str, row: int) -> np.ndarray[Any, Any]:
    if name == "ids":
        return np.arange(row % 6) + 1000 * row
    if name == "boxes":
        return np.full((row % 3, 4), row)
    return np.full((3, 2, 3), row) if name == "image" else np.array(row % 5)


configs = st.builds(
    BatchConfig,
    batch_size=st.integers(1, NUM_ROWS + 1),
    seed=st.integers(0, 3) | st.none(),
    window_rows=st.none() | st.integers(1, NUM_ROWS),
    prefetch=st.integers(0, 2),
    pad=st.just(9),
)
some_rows = st.sets(st.integers(0, NUM_ROWS - 1), min_size=1).map(sorted)


@settings(max_examples=60, deadline=None)
@given(config=configs, rows=some_rows, epoch=st.integers(0, 2))
def test_an_epoch_holds_every_row_once_with_its_values_and_nothing_but_padding(
    columns: dict[str, ColumnReader], config: BatchConfig, rows: list[int], epoch: int
) -> None:
    batches = RowBatches(columns, np.array(rows), config)
    found = list(batches.epoch(epoch))
    assert len(found) == len(batches)
    assert [len(batch["rows"]) for batch in found[:-1]] == [config.batch_size] * (len(found) - 1)
    seen = np.concatenate([batch["rows"] for batch in found])
    assert sorted(seen.tolist()) == rows
    assert seen.tolist() == batches.order(epoch).tolist()
    for batch in found:
        for place, row in enumerate(batch["rows"].tolist()):
            for name in ("ids", "boxes"):
                length = batch[f"{name}_lengths"][place]
                assert (batch[name][place, :length] == expected(name, row)).all()
                assert (batch[name][place, length:] == config.pad).all()
            assert (batch["image"][place] == expected("image", row)).all()
            assert batch["label"][place] == row % 5
        assert batch["ids"].shape[1] == max(batch["ids_lengths"])
        assert batch["ids"].dtype == np.int32


@settings(max_examples=40, deadline=None)
@given(config=configs, rows=some_rows, start=st.integers(0, NUM_ROWS))
def test_an_epoch_can_be_begun_at_any_batch(
    columns: dict[str, ColumnReader], config: BatchConfig, rows: list[int], start: int
) -> None:
    batches = RowBatches(columns, np.array(rows), config)
    whole = [batch["rows"].tolist() for batch in batches.epoch(1)]
    rest = [batch["rows"].tolist() for batch in batches.epoch(1, start=start)]
    assert rest == whole[start:]


def test_epochs_and_seeds_differ_and_without_a_seed_rows_stay(
    columns: dict[str, ColumnReader],
) -> None:
    rows = np.arange(NUM_ROWS)
    orders = [
        RowBatches(columns, rows, BatchConfig(seed=seed, window_rows=window)).order(epoch).tolist()
        for seed in (0, 1)
        for window in (None, 6)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert RowBatches(columns, rows, BatchConfig(seed=None)).order(3).tolist() == rows.tolist()


def test_rows_of_a_window_come_from_few_partitions_and_the_next_are_read_ahead(
    columns: dict[str, ColumnReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    whole = ColumnReader.read_ahead

    def read_ahead(column: ColumnReader, partitions: list[int]) -> None:
        asked.append(partitions)
        whole(column, partitions)

    monkeypatch.setattr(ColumnReader, "read_ahead", read_ahead)
    config = BatchConfig(batch_size=4, window_rows=8)
    batches = RowBatches({"ids": columns["ids"]}, np.arange(NUM_ROWS), config)
    edges = columns["ids"].partition_edges
    parts = np.searchsorted(edges, batches.order(0), side="right") - 1
    visits = 1 + int((np.diff(parts) != 0).sum())
    everywhere = RowBatches({"ids": columns["ids"]}, np.arange(NUM_ROWS), BatchConfig()).order(0)
    scattered = np.searchsorted(edges, everywhere, side="right") - 1
    assert visits < 1 + int((np.diff(scattered) != 0).sum())
    list(batches.epoch(0))
    num_windows = len(asked) + 1
    assert num_windows > 1
    assert all(0 <= number < len(edges) - 1 for numbers in asked for number in numbers)


def test_an_epoch_that_is_left_early_leaves_no_thread(columns: dict[str, ColumnReader]) -> None:
    closed: list[bool] = []
    whole = Prefetcher.close
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prefetcher, "close", lambda self: (closed.append(True), whole(self))[1])
        batches = RowBatches(columns, np.arange(NUM_ROWS), BatchConfig(batch_size=2, prefetch=1))
        epoch = batches.epoch()
        next(epoch)
        epoch.close()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
    assert closed


def test_wrong_settings_and_no_rows_are_refused(columns: dict[str, ColumnReader]) -> None:
    with pytest.raises(LoaderError, match=r"(?s)batch_size must be at least 1.*window_rows"):
        BatchConfig(batch_size=0, window_rows=0)
    with pytest.raises(LoaderError, match="T0601"):
        RowBatches(columns, np.empty(0, np.int64), BatchConfig())


@pytest.mark.parametrize(
    ("num_before", "why"),
    [
        pytest.param(0, r"checksum(?s:.*)row p0:0-99", id="before its first touch"),
        pytest.param(1, r"points outside(?s:.*)row p0:10\b", id="after its first touch"),
    ],
)
def test_a_damaged_row_is_told_where_batches_are_read(
    num_before: int, why: str, tmp_path: Path
) -> None:
    store = Store.create(tmp_path)
    write_column(store, "k", "p0", IDS, ids([[1, 2, 3]] * 100))
    path = store.path / store.file_name("s", "k", "p0", "arrow")
    column = open_column(store, "s", "k", ["p0"])
    batches = RowBatches({"ids": column}, np.arange(100), BatchConfig())
    for _ in range(num_before):
        assert len(list(batches.epoch())) > 1
    place = path.read_bytes().find(np.arange(0, 303, 3).astype(np.int32).tobytes())
    with path.open("r+b") as file:  # in the place that is mapped
        file.seek(place + 40)
        file.write(np.int32(1 << 30).tobytes())
    with pytest.raises(StoreError, match=f"T0504.*{why}"):
        list(batches.epoch())
