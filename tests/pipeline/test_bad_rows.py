"""The same bad rows are found however the rows lie in partitions, and all others come out as they should.

The ops here do not say which of their rows they refuse, so that it has to be found out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import given, settings

from taskloom.ops.host.image import DecodeImages
from taskloom.ops.host.text import FormatTexts
from taskloom.pipeline import BuildReport, Source
from taskloom.pipeline.builder import building
from taskloom.pipeline.host.execute import Failure
from taskloom.storage.ledger import read_ledger
from taskloom.storage.reader import open_column
from taskloom.storage.store import Store

from .number_ops import Chain, HalveAndCount, HalveNumbers
from .rows import digits_task, encode_png, mix, run

NUM_ROWS = 100_000
NUM_BAD = 7

some_rows = st.lists(
    st.integers(0, NUM_ROWS - 1), min_size=NUM_BAD, max_size=NUM_BAD, unique=True
).map(sorted)


def hide(bad: list[int], num_rows: int = NUM_ROWS) -> npt.NDArray[np.int64]:
    """Return even numbers that all differ, but for odd ones at ``bad``."""
    numbers = 2 * np.arange(num_rows)
    numbers[bad] += 1
    return numbers


def halve_parts(
    numbers: npt.NDArray[np.int64], starts: list[int], batch_rows: int, num_workers: int
) -> Iterator[tuple[int, list[tuple[int, Failure]], pa.Array]]:
    """Yield where each partition starts, its failures by offset, and what came out of it."""

    def compute(begin: int, end: int) -> tuple[int, list[tuple[int, Failure]], pa.Array]:
        chain = Chain()
        halved = chain.add(HalveNumbers(), values=chain.read())
        execution = chain.execution(halved)
        made: list[pa.Array] = []
        failed: list[tuple[int, Failure]] = []
        for first in range(begin, end, batch_rows):
            batch = numbers[first : min(first + batch_rows, end)]
            values, failures = execution.run(pa.RecordBatch.from_pydict({"x": pa.array(batch)}))
            made.append(values[halved])
            failed += [(first - begin + failure.offset, failure) for failure in failures]
        return begin, failed, pa.concat_arrays(made)

    with ThreadPoolExecutor(num_workers) as threads:
        yield from threads.map(compute, starts, [*starts[1:], len(numbers)])


@settings(max_examples=40)
@given(
    bad=some_rows,
    cuts=st.sets(st.integers(1, NUM_ROWS - 1), max_size=12),
    batch_rows=st.integers(500, NUM_ROWS),
    num_workers=st.integers(1, 3),
)
def test_the_same_rows_are_named_whatever_the_partitions_batches_and_workers(
    bad: list[int], cuts: set[int], batch_rows: int, num_workers: int
) -> None:
    numbers = hide(bad)
    named: dict[int, str] = {}
    made: list[pa.Array] = []
    for start, failed, part in halve_parts(numbers, [0, *sorted(cuts)], batch_rows, num_workers):
        named |= {start + offset: failure.problem.message for offset, failure in failed}
        made.append(part)
    assert named == {row: f"ArithmeticError: {2 * row + 1} is odd" for row in bad}
    is_bad = np.isin(np.arange(NUM_ROWS), bad)
    assert pa.concat_arrays(made).equals(pa.array(numbers // 2, mask=is_bad))


@settings(max_examples=40)
@given(st.data())
def test_a_bad_row_costs_no_more_calls_than_halving_takes(data: st.DataObject) -> None:
    num_rows = data.draw(st.integers(1, 5_000))
    bad = data.draw(st.sets(st.integers(0, num_rows - 1), max_size=20))
    chain = Chain()
    halved = chain.add(HalveAndCount(), values=chain.read())
    HalveAndCount.sizes.clear()
    _, failures = chain.run({"x": pa.array(hide(sorted(bad), num_rows))}, halved)
    assert [failure.offset for failure in failures] == sorted(bad)
    halvings = math.ceil(math.log2(num_rows)) if num_rows > 1 else 0
    # Of each half that failed both halves are tried; besides, all rows and none are tried once.
    assert len(HalveAndCount.sizes) <= 2 + 2 * halvings * len(bad)
    assert sum(HalveAndCount.sizes) <= num_rows * (1 + 2 * halvings)


def write_rows(folder: Path, bad: list[int], starts: list[int], group_rows: int) -> Source:
    """Return a source of one Parquet file for each of ``starts``."""
    folder.mkdir()
    pictures = [encode_png(np.full((2, 2, 3), shade, np.uint8)) for shade in range(251)]
    images = [pictures[row % 251] for row in range(NUM_ROWS)]
    notes = np.arange(NUM_ROWS) / 4
    notes[bad] = np.nan
    for row in bad:
        images[row] = b"notajpeg"
    labels = [str(row % 3) for row in range(NUM_ROWS)]
    table = pa.table({"id": np.arange(NUM_ROWS), "image": images, "note": notes, "label": labels})
    paths: list[str] = []
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], NUM_ROWS], strict=True)):
        paths.append(str(folder / f"{number:04}.parquet"))
        part = table.slice(start, stop - start)
        pa_parquet.write_table(part, paths[-1], row_group_size=group_rows)
    return Source("rows", paths)


def read_back(store: Store) -> dict[str, tuple[bytes, bytes]]:
    """Return the values of each column, in order of the source's rows, and which exist."""
    columns: dict[str, tuple[bytes, bytes]] = {}
    partitions = [partition.id for partition in store.source("rows").partitions]
    for key in sorted(path.name for path in (store.path / "columns" / "rows").iterdir()):
        column = open_column(store, "rows", key, partitions)
        valid = np.asarray(column.valid)
        gathered: Any = column.gather(np.flatnonzero(valid))
        parts = gathered if isinstance(gathered, tuple) else (gathered,)
        columns[key] = valid.tobytes(), b"".join(np.asarray(part).tobytes() for part in parts)
    assert columns
    return columns


def find_rows(store: Store) -> list[tuple[int, str]]:
    """Return the rows of the source that the ledger names, and what it says of them."""
    starts: dict[str, int] = {}
    num_rows = 0
    for partition in store.source("rows").partitions:
        starts[partition.id] = num_rows
        num_rows += partition.rows
    entries = read_ledger(store).to_pylist()
    return sorted((starts[e["partition"]] + e["offset"], e["message"]) for e in entries)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        pytest.param("[TEXT:note] -> [TEXT:label]", "the number is not finite", id="threads"),
        pytest.param("[IMAGE:image] -> [TEXT:label]", "cannot identify image file", id="processes"),
    ],
)
def test_builds_name_the_same_rows_and_write_the_same_bytes_whatever_the_partitions_and_workers(
    instruction: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    bad = sorted(rng.choice(NUM_ROWS, NUM_BAD, replace=False).tolist())
    cuts = sorted(rng.choice(np.arange(1, NUM_ROWS), 30, replace=False).tolist())

    def build(name: str, starts: list[int], group_rows: int, workers: int) -> Store:
        source = write_rows(tmp_path / f"{name} files", bad, starts, group_rows)
        task = digits_task(source, instruction, name="rows")
        mixture = mix(task, slots={"IMAGE": {"size": 8, "patch": 8}})
        report: BuildReport = run(mixture, tmp_path / name, workers=workers)
        assert (report.rows, report.rejects) == (NUM_ROWS, NUM_BAD)
        return Store.open(tmp_path / name)

    expected = build("named", [0], NUM_ROWS, 2)
    assert find_rows(expected) == [(row, message) for row in bad]
    here = Path(__file__).parent
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", str(here))
    monkeypatch.setattr(building, "BUILD_PARTITION", "worker_functions:build_nameless")
    for op in (DecodeImages, FormatTexts):  # restored after the test
        monkeypatch.setattr(op, "__call__", op.__call__)
    for name, starts, group_rows, workers in (
        ("one file", [0], 700, 1),
        ("many files", [0, *cuts], NUM_ROWS, 3),
    ):
        store = build(name, starts, group_rows, workers)
        assert find_rows(store) == [(row, f"ArithmeticError: {message}") for row in bad]
        assert read_back(store) == read_back(expected)
