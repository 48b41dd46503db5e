"""Stores of every released format open, read, verify and are built on."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.storage.ledger import read_bad_rows
from taskloom.storage.opening import FORMAT
from taskloom.storage.reader import open_column
from taskloom.storage.source import read_batches
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from .columns import tree

FIXTURES = Path(__file__).parent / "fixtures"
KEPT = sorted(FIXTURES.glob("format-*"))
BAD = 4

every_format = pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)


def test_every_released_format_is_kept() -> None:
    assert [path.name for path in KEPT] == [f"format-{n}" for n in range(1, FORMAT + 1)]
    for number, path in enumerate(KEPT, 1):
        assert json.loads((path / "store.json").read_bytes())["format"] == number


@every_format
def test_a_store_of_a_released_format_reads_as_it_did(path: Path) -> None:
    before = tree(path)
    store = Store.open(path)
    assert str(verify(store)).startswith("verified 4 partitions of 4 columns, ")
    assert verify(store).problems == ()
    assert (store.sources(), store.tasks()) == (("digits",), ("digits",))
    record = store.source("digits")
    (partition,) = record.partitions
    (batch,) = read_batches(store, record, partition.id)
    rows = batch.to_pylist()
    assert [row["note"] for row in rows] == [f"scan {n}" for n in range(6)]
    assert [row["label"] for row in rows] == list("012345")

    columns = [open_column(store, *column, [partition.id]) for column in store.columns()]
    (dense,) = (column for column in columns if column.type.startswith("image"))
    good = [n for n in range(6) if n != BAD]
    pixels = dense.gather(np.array(good))
    assert isinstance(pixels, np.ndarray)
    for found, number in zip(pixels, good, strict=True):
        image = Image.open(io.BytesIO(rows[number]["image"])).convert("RGB")
        assert np.abs(found.astype(int) - np.asarray(image)).max() <= 1
    assert np.flatnonzero(~dense.valid).tolist() == [BAD]

    (bad,) = read_bad_rows(store)
    assert (bad.row, bad.entry.problem.code) == (f"{partition.id}:{BAD}", "T0301")
    assert sorted(store.artifacts()) == ["bpe-main", "closed-set-digits.label"]
    for artifact in store.artifacts().values():
        assert store.artifact_content(artifact.digest)
    assert "[IMAGE:image]" in store.task("digits")["instruction"]
    assert list(store.measures())
    assert tree(path) == before


@every_format
def test_a_store_of_a_released_format_is_built_on(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(path, copy)
    store = Store.open(copy)
    before = {n: c for n, c in tree(copy).items() if n.startswith(("columns/", "artifacts/"))}
    record = store.source("digits")
    batches = [b for p in record.partitions for b in read_batches(store, record, p.id)]
    rows = [
        {name: value for name, value in row.items() if name != "__split__"}
        for batch in batches
        for row in batch.to_pylist()
    ]
    slots = {"IMAGE": {"size": 8, "patch": 8}}
    lines = {
        "digits": "[IMAGE:image] [TEXT:note] -> [TEXT:label,closed_set]",
        "say": "[TEXT:label] -> [TEXT:note]",
    }
    tasks = [Task(name, line, source=Source("digits", rows)) for name, line in lines.items()]
    report = build(Mixture(tasks, slots=slots, bpe_size=270), store, progress=False, workers=1)
    assert report.cached == 4  # fewer, once an op of these columns has a higher version
    assert report.partitions > 0
    assert report.fitted == ()
    assert verify(store).problems == ()
    after = tree(copy)
    assert {name: after[name] for name in before} == before
