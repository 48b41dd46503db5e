"""Rows of every form are built alike, and those that two tasks share are built once."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pytest
from PIL import Image

from taskloom.ops.host.bpe import Bpe
from taskloom.pipeline import Source, Task, open_plan, why
from taskloom.pipeline.builder import building
from taskloom.pipeline.builder.dataset import open_dataset
from taskloom.storage.source import register_source
from taskloom.storage.store import Store

from .rows import (
    NUM_ROWS,
    WORDS,
    Row,
    digit_rows,
    digits_task,
    mix,
    run,
    stamps,
    write_csv,
    write_jsonl,
    write_parquet,
)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        pytest.param("parquet", ["all"], id="a Parquet file"),
        pytest.param("parquet", ["train", "test"], id="a Parquet file per split"),
        pytest.param("csv", ["all"], id="a CSV file"),
        pytest.param("jsonl", ["train", "test"], id="a JSON lines file per split"),
        pytest.param("rows", ["train", "test"], id="rows per split"),
        pytest.param("function", ["all"], id="a function"),
        pytest.param("generator", ["all"], id="a generator"),
        pytest.param("polars", ["train", "test"], id="a polars frame per split"),
        pytest.param("lazy", ["all"], id="a polars lazy frame"),
        pytest.param("hugging face", ["all"], id="a Hugging Face dataset"),
    ],
)
def test_every_kind_of_source_gives_the_same_columns(
    kind: str, parts: list[str], tmp_path: Path
) -> None:
    def give(name: str, rows: list[Row]) -> Any:
        if kind in ("parquet", "csv", "jsonl"):
            write = {"parquet": write_parquet, "csv": write_csv, "jsonl": write_jsonl}[kind]
            return write(tmp_path / f"{name}.{kind}", rows)
        given: dict[str, Callable[[], Any]] = {
            "rows": lambda: rows,
            "function": lambda: lambda: rows,
            "generator": lambda: iter(rows),
            "polars": lambda: pl.DataFrame(rows),
            "lazy": lambda: pl.LazyFrame(rows),
            "hugging face": lambda: datasets.Dataset.from_list(rows),
        }
        return given[kind]()

    rows = [{"id": i, "note": f"note {i % 4}", "label": str(i % 3)} for i in range(20)]
    if len(parts) > 1:
        source: Any = {"train": give("train", rows[:15]), "test": give("test", rows[15:])}
        task = Task("words", WORDS, source=Source("words", source))
    else:
        task = Task(
            "words", WORDS, source=Source("words", give("all", rows)), holdout=0.3, key="id"
        )
    mixture = mix(task)
    run(mixture, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    dataset = open_dataset(mixture, store)
    bpe = Bpe(store.artifact_content(store.artifacts()["bpe-main"].digest))
    ids: Any = dataset.target("words", "label")[0].take(np.arange(20)).to_pylist()
    assert [bpe.decode(row) for row in ids] == [row["label"] for row in rows]
    held_out = dataset.rows("words", "test").usable.tolist()
    if len(parts) > 1:
        assert held_out == [15, 16, 17, 18, 19]
    assert sorted([*held_out, *dataset.rows("words", "train").usable.tolist()]) == list(range(20))


def test_arrays_and_pictures_of_a_program_are_stored_as_they_are(tmp_path: Path) -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    rows = [
        {"id": 0, "image": pixels, "label": "a"},
        {"id": 1, "image": Image.fromarray(pixels), "label": "a"},
    ]
    mixture = mix(
        Task("t", "[IMAGE:image,size=8] -> [TEXT:label]", source=rows),
        slots={"IMAGE": {"patch": 8}},
    )
    run(mixture, tmp_path)
    dataset = open_dataset(mixture, Store.open(tmp_path))
    (image,) = (v for v in dataset.plan.cut.stored if dataset.plan.graph.type_of(v).kind == "image")
    stored = np.asarray(dataset.columns["t", image.column_id].gather(np.arange(2)))
    np.testing.assert_array_equal(stored, np.stack([pixels, pixels]))


def test_a_renamed_task_shares_what_does_not_depend_on_its_name(tmp_path: Path) -> None:
    source = Source("digits", digit_rows())
    run(mix(digits_task(source)), tmp_path)
    report = run(mix(digits_task(source), digits_task(source, name="again")), tmp_path)
    # Each task has a closed set of its own; here both hold the same answers, so nothing follows.
    assert report.fitted == ("closed-set-again.label",)
    assert (report.partitions, report.cached) == (0, 3)


def test_appended_files_build_only_their_partitions(tmp_path: Path) -> None:
    files = [write_parquet(tmp_path / f"{i}.parquet", digit_rows(20, 20 * i)) for i in range(3)]
    store = tmp_path / "store"
    first = run(mix(digits_task([str(path) for path in files[:2]])), store)
    assert (first.partitions, first.cached, first.rows) == (6, 0, 40)
    before = {n: s for n, s in stamps(store / "columns").items() if not n.endswith(".lock")}
    second = run(mix(digits_task([str(path) for path in files])), store)
    assert (second.partitions, second.cached, second.rows) == (3, 6, 20)
    assert not second.fitted
    assert before.items() <= stamps(store / "columns").items()


def test_a_frame_that_grows_builds_the_partitions_it_gained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "register_source", partial(register_source, partition_rows=20))
    frame = pl.DataFrame(digit_rows(60))
    first = run(mix(digits_task(Source("digits", frame[:40]))), tmp_path)
    assert (first.partitions, first.cached) == (6, 0)
    before = {n: s for n, s in stamps(tmp_path / "columns").items() if not n.endswith(".lock")}
    same = run(mix(digits_task(Source("digits", frame[:40].lazy()))), tmp_path)
    assert (same.partitions, same.cached) == (0, 6)
    grown = mix(digits_task(Source("digits", frame)))
    second = run(grown, tmp_path)
    assert (second.partitions, second.cached, second.rows) == (3, 6, 20)
    assert before.items() <= stamps(tmp_path / "columns").items()
    told = str(why(grown, tmp_path))
    assert "source digits is given by a program: its rows are read by a build" in told
    planned = open_plan(grown, Store.open(tmp_path))
    (pixels,) = planned["digits.image/resize"].head(Source("digits", frame.lazy()), 1)
    assert pixels.shape == (16, 16, 3)


def test_a_tar_of_webdataset_is_built_in_ranges(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "digits-000.tar", "w") as archive:
        for row in digit_rows():
            for extension, content in (("png", row["image"]), ("cls", str(row["label"]).encode())):
                member = tarfile.TarInfo(f"{row['id']}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    instruction = "[IMAGE:png] what does the image describe? -> [TEXT:cls,closed_set]"
    path = str(tmp_path / "digits-*.tar")
    mixture = mix(digits_task(Source("digits", path), instruction, key="__key__"))
    run(mixture, tmp_path / "tar")
    store = Store.open(tmp_path / "tar")
    assert store.source("digits").schema.names == ["__key__", "png", "cls"]
    dataset = open_dataset(mixture, store)
    bpe = Bpe(store.artifact_content(store.artifacts()["bpe-main"].digest))
    ids: Any = dataset.target("digits", "cls")[0].take(np.arange(NUM_ROWS)).to_pylist()
    assert [bpe.decode(row) for row in ids] == [str(row["label"]) for row in digit_rows()]


def test_two_tasks_over_one_file_share_its_columns(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "digits.parquet", digit_rows())
    other = "[IMAGE:image] [TEXT:note] -> [TEXT:label]"
    mixture = mix(digits_task(path), digits_task(path, other, name="other"))
    report = run(mixture, tmp_path / "store")
    # One for image, note, label, label within its closed set, and split.
    assert (report.partitions, report.rows) == (5, NUM_ROWS)
    assert len(Store.open(tmp_path / "store").sources()) == 1
