"""What is exported, read back by the libraries it is for, is what the store holds."""

from __future__ import annotations

import io
import json
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast
from unittest import mock

import datasets
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import webdataset.tariterators as wds
from PIL import Image

from taskloom.graph.errors import MissingExtraError, PlanError, StoreError
from taskloom.pipeline import Mixture, Source, Task, export
from taskloom.pipeline.builder.dataset import SPLIT_CODES, Dataset, Split, open_dataset
from taskloom.pipeline.cli import main
from taskloom.storage.source import read_batches, register_source
from taskloom.storage.store import Store

from .rows import digit_rows, mix, run, tree

TEMPLATES = [
    "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]",
    "[IMAGE:image] -> ([TEXT:tags] ,)*",
]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


def make_mixture() -> Mixture:
    rows = [row | {"tags": [f"t{k}" for k in range(i % 3)]} for i, row in enumerate(digit_rows())]
    rows[5]["image"] = b"notajpeg"
    task = Task(
        "digits",
        TEMPLATES,
        source=Source("digits", rows),
        holdout=0.2,
        valid=0.2,
        key="id",
        where="label != '3'",
    )
    return mix(task)


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    """Digits with a group, a filter and a bad row."""
    return make_mixture()


@pytest.fixture(scope="module")
def store(mixture: Mixture, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of `mixture`."""
    path = tmp_path_factory.mktemp("store")
    run(mixture, path)
    return Store.open(path)


@pytest.fixture(scope="module")
def expected(mixture: Mixture, store: Store) -> dict[str, list[dict[str, Any]]]:
    """The rows of every split as the columns of the store hold them."""
    dataset = open_dataset(mixture, store)
    return {split: stored_rows(dataset, store, split) for split in SPLITS}


def stored_rows(dataset: Dataset, store: Store, split: Split) -> list[dict[str, Any]]:
    (partition,) = store.source("digits").partitions
    given = [
        r for b in read_batches(store, store.source("digits"), partition.id) for r in b.to_pylist()
    ]
    rows = dataset.rows("digits", split).usable
    (image,) = (v for v in dataset.plan.cut.stored if dataset.plan.graph.type_of(v).kind == "image")
    pixels: Any = dataset.columns["digits", image.column_id].gather(rows)
    tags, starts = dataset.target("digits", "tags")
    assert starts is not None
    tag_ids = [tags.take(np.arange(*starts[row : row + 2])).to_pylist() for row in rows.tolist()]
    ids: Any = dataset.target("digits", "label")[0].take(rows).to_pylist()
    return [
        {
            "row": f"{partition.id}:{row}",
            "split": split,
            "image": pixels[number],
            "label": given[row]["label"],
            "label_ids": ids[number],
            "tags": given[row]["tags"],
            "tags_ids": tag_ids[number],
        }
        for number, row in enumerate(rows.tolist())
    ]


def pixels_of(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)))


def check(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(rows) == len(expected) > 0
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row["image"], other["image"])
        for name in ("row", "split", "label", "label_ids", "tags", "tags_ids"):
            if name != "split" or name in row:
                assert row[name] == other[name]


def test_splits_have_all_rows_but_those_filtered_out_and_the_bad_one(
    expected: dict[str, list[dict[str, Any]]],
) -> None:
    threes = sum(row["label"] == "3" for row in digit_rows())
    assert sum(map(len, expected.values())) == 60 - threes - 1


def test_parquet_is_what_is_stored(
    mixture: Mixture, store: Store, expected: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    report = export(mixture, store, tmp_path, progress=False)
    assert report.rows == {"digits": sum(map(len, expected.values()))}
    for split in SPLITS:
        frame = pl.read_parquet(tmp_path / f"{split}-*.parquet")
        arrow = pq.read_table(tmp_path / f"{split}-00000-of-00001.parquet").to_pylist()
        for rows in (frame.to_dicts(), arrow):
            check([r | {"image": pixels_of(r["image"])} for r in rows], expected[split])
    whole = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / ".cache"))
    assert {name: len(part) for name, part in whole.items()} == {
        {"valid": "validation"}.get(split, split): len(rows) for split, rows in expected.items()
    }


def test_a_hugging_face_dataset_is_what_is_stored_and_a_source_again(
    mixture: Mixture, store: Store, expected: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    export(mixture, store, tmp_path / "out", format="huggingface", progress=False)
    back = datasets.load_from_disk(str(tmp_path / "out"))
    assert isinstance(back, datasets.DatasetDict)
    assert isinstance(back["train"].features["image"], datasets.Image)
    for name, split in (("train", "train"), ("validation", "valid"), ("test", "test")):
        rows: Any = list(back[name])
        check([row | {"image": np.asarray(row["image"])} for row in rows], expected[split])
    other = Store.create(tmp_path / "again")
    record = register_source(other, "again", back)
    rows = [
        r
        for p in record.partitions
        for b in read_batches(other, record, p.id)
        for r in b.to_pylist()
    ]
    check(
        [row | {"image": pixels_of(row["image"])} for row in rows],
        [row for split in SPLITS for row in expected[split]],
    )
    assert [r["__split__"] for r in rows] == [
        SPLIT_CODES[split] for split in SPLITS for _ in expected[split]
    ]


def test_a_tar_is_what_is_stored_and_a_source_again(
    mixture: Mixture, store: Store, expected: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    export(mixture, store, tmp_path / "out", format="webdataset", images="npy", progress=False)
    with (tmp_path / "out/train-00000-of-00001.tar").open("rb") as file:
        files: Any = ({**each, "__url__": ""} for each in wds.tar_file_iterator(cast("Any", file)))
        theirs: list[Any] = list(wds.group_by_keys(files))
    other = Store.create(tmp_path / "again")
    record = register_source(other, "again", tmp_path / "out/train-*.tar")
    ours = [
        r
        for p in record.partitions
        for b in read_batches(other, record, p.id)
        for r in b.to_pylist()
    ]
    for rows, dot in ((theirs, "."), (ours, "_")):
        told = [
            {
                "row": row["__key__"].replace("-", ":"),
                "image": np.load(io.BytesIO(row[f"image{dot}npy"])),
                "label": text(row[f"label{dot}txt"]),
                "label_ids": json.loads(row[f"label_ids{dot}json"]),
                "tags": json.loads(row[f"tags{dot}json"]),
                "tags_ids": json.loads(row[f"tags_ids{dot}json"]),
            }
            for row in rows
        ]
        check(told, expected["train"])


def text(content: bytes | str) -> str:
    return content if isinstance(content, str) else content.decode()


@pytest.mark.parametrize("format_", ["parquet", "huggingface", "webdataset"])
def test_columns_of_the_source_are_those_of_its_rows(
    format_: Any, mixture: Mixture, store: Store, expected: Any, tmp_path: Path
) -> None:
    report = export(
        mixture, store, tmp_path, format=format_, columns="source", split="test", progress=False
    )
    assert report.rows == {"digits": len(expected["test"])}
    given = {row["id"]: row for row in digit_rows()}
    if format_ == "webdataset":
        record = register_source(store, "back", tmp_path / "*.tar")
        (partition,) = record.partitions
        (batch,) = read_batches(store, record, partition.id)
        assert [given[r["id_txt"]]["image"] for r in batch.to_pylist()] == batch[
            "image_png"
        ].to_pylist()
        return
    rows: list[Any] = (
        pl.read_parquet(tmp_path / "*.parquet").to_dicts()
        if format_ == "parquet"
        else list(datasets.load_from_disk(str(tmp_path))["test"])
    )
    assert [row["row"] for row in rows] == [row["row"] for row in expected["test"]]
    for row in rows:
        assert {name: row[name] for name in given[row["id"]]} == given[row["id"]]


def test_an_export_that_was_killed_goes_on_to_the_same_bytes(
    mixture: Mixture, store: Store, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = export(mixture, store, whole, shard_bytes=4000, progress=False)
    assert first.written > 8
    script = tmp_path / "run.py"
    script.write_text(
        "import pickle, sys\n"
        "from taskloom.pipeline import export\n"
        "mixture = pickle.load(open(sys.argv[1], 'rb'))\n"
        "export(mixture, sys.argv[2], sys.argv[3], shard_bytes=4000, progress=False)\n"
    )
    (tmp_path / "mixture").write_bytes(pickle.dumps(mixture))
    command = [sys.executable, script, tmp_path / "mixture", store.path, killed]
    with subprocess.Popen([str(word) for word in command]) as process:
        while process.poll() is None and len(list(killed.glob("[!.]*.parquet"))) < 3:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    num_there = len(list(killed.glob("[!.]*.parquet")))
    again = export(mixture, store, killed, shard_bytes=4000, progress=False)
    assert 0 < again.written == first.written - num_there < first.written
    assert tree(killed) == tree(whole)


def test_a_folder_of_another_export_is_refused(
    mixture: Mixture, store: Store, tmp_path: Path
) -> None:
    export(mixture, store, tmp_path, split="test", progress=False)
    before = tree(tmp_path)
    for other in ({"split": "train"}, {"images": "npy"}, {"columns": "source"}):
        arguments: dict[str, Any] = {"split": "test", "progress": False} | other
        with pytest.raises(StoreError, match=r"(?s)T0540.*another export"):
            export(mixture, store, tmp_path, **arguments)
    (tmp_path / ".export.json").unlink()
    with pytest.raises(StoreError, match=r"T0540.*a file test-00000-of-00001\.parquet"):
        export(mixture, store, tmp_path, split="test", progress=False)
    assert tree(tmp_path).items() <= before.items()


@pytest.mark.parametrize("inside", ["", "rows", "sources/rows"])
@pytest.mark.parametrize("is_linked", [False, True], ids=["path", "link"])
def test_a_folder_of_the_store_is_refused_and_the_store_left_as_it_is(
    mixture: Mixture, store: Store, tmp_path: Path, inside: str, *, is_linked: bool
) -> None:
    (tmp_path / "link").symlink_to(store.path)
    out = (tmp_path / "link" if is_linked else store.path) / inside
    before = tree(store.path)
    with pytest.raises(StoreError) as caught:
        export(mixture, store, out, progress=False)
    (problem,) = caught.value.problems
    assert problem.code == "T0501"
    assert problem.message.startswith(f"{out} belongs to the store {store.path}")
    assert tree(store.path) == before


def test_a_place_that_is_not_on_this_machine_is_refused_and_no_folder_has_its_name(
    mixture: Mixture, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"T0501.*this one is on s3"):
        export(mixture, store, "s3://bucket/rows", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_task_with_the_name_of_the_store_is_not_exported_beside_others_into_it(
    tmp_path: Path,
) -> None:
    words = [{"word": "yes"}, {"word": "no"}]
    sides = [Task(name, "-> [TEXT:word]", source=Source("s", words)) for name in ("one", "two")]
    run(mix(*sides), tmp_path / "two")
    with pytest.raises(StoreError, match=r"T0501.*two belongs to the store"):
        export(mix(*sides), tmp_path / "two", tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "parket"}, '(?s)T0227.*no format "parket".*did you mean parquet'),
        ({"split": "validation"}, 'T0227.*no split "validation"'),
        ({"columns": "all"}, 'T0227.*no columns "all"'),
        ({"images": "jpg"}, 'T0227.*no images "jpg"'),
        ({"shard_bytes": 0}, "T0227.*shard_bytes"),
        ({"task": "digit"}, r"(?s)T0219.*did you mean digits\?"),
    ],
)
def test_choices_that_are_none_are_refused(
    arguments: dict[str, Any], message: str, mixture: Mixture, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=message):
        export(mixture, store, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_without_the_library_the_extra_is_named(
    mixture: Mixture, store: Store, tmp_path: Path
) -> None:
    with (
        mock.patch.dict("sys.modules", {"datasets": None}),
        pytest.raises(MissingExtraError, match=r"(?s)T0901.*taskloom\[etl\]"),
    ):
        export(mixture, store, tmp_path, format="huggingface", progress=False)


def test_the_command_exports_a_task_of_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.DataFrame({"word": ["yes", "no"], "reply": ["no", "yes"]}).write_parquet(
        tmp_path / "r.parquet"
    )
    (tmp_path / "p.yaml").write_text(
        "store: s\nout: r\ntasks:\n"
        '  echo: {instruction: "say [TEXT:word] -> [TEXT:reply]", source: r.parquet}\n'
    )
    monkeypatch.chdir(tmp_path)
    for command in ("build p.yaml", "export p.yaml echo -o out --format webdataset --json"):
        monkeypatch.setattr(sys, "argv", ["taskloom", *command.split()])
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"] == {"echo": 2}
    assert facts["files"] == {"echo": [str(tmp_path / "out/train-00000-of-00001.tar")]}
