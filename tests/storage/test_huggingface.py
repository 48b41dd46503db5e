"""Datasets of Hugging Face are captured as stored: files as bytes, classes as names, splits as ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from taskloom.graph.errors import SourceError
from taskloom.storage.head import read_head
from taskloom.storage.source import read_batches, register_source
from taskloom.storage.store import Store

PIXELS = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "images": datasets.List(datasets.Image()),
        "nested": {"kind": datasets.ClassLabel(names=["u", "v"]), "n": datasets.Value("int32")},
        "labels": datasets.List(datasets.ClassLabel(names=["cat", "dog"]), length=2),
        "array": datasets.Array2D((2, 2), "uint8"),
        "items": datasets.List({"q": datasets.Value("int64")}),
    }
)


def png(pixels: Any = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


CONTENT = png()
ONES = np.ones((2, 2), np.uint8)
FULL = {
    "image": {"bytes": CONTENT, "path": None},
    "label": 1,
    "images": [{"bytes": CONTENT, "path": "a.png"}] * 2,
    "nested": {"kind": 0, "n": 3},
    "labels": [0, 1],
    "array": ONES,
    "items": [{"q": 1}, {"q": 2}],
}
EMPTY = {"image": None, "label": -1, "images": [], "nested": None, "labels": None, "items": []}
EXPECTED = [
    {
        "image": CONTENT,
        "label": "dog",
        "images": [CONTENT, CONTENT],
        "nested": {"kind": "u", "n": 3},
        "labels": ["cat", "dog"],
        "array": npy(ONES),
        "items": [{"q": 1}, {"q": 2}],
    },
    {
        "image": None,
        "label": None,
        "images": [],
        "nested": None,
        "labels": None,
        "array": npy(ONES),
        "items": [],
    },
]


@pytest.fixture(scope="module")
def dataset() -> datasets.Dataset:
    """Two rows with a feature of every kind."""
    return datasets.Dataset.from_list([FULL, EMPTY | {"array": ONES}], features=FEATURES)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.create(tmp_path / "store")


def capture(store: Store, data: Any, name: str = "s") -> list[dict[str, Any]]:
    record = register_source(store, name, data)
    assert register_source(store, name, data).num_new == 0
    return [
        row
        for partition in record.partitions
        for batch in read_batches(store, record, partition.id)
        for row in batch.to_pylist()
    ]


def without_split(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "__split__"} for row in rows]


def test_features_become_bytes_names_and_arrays(store: Store, dataset: datasets.Dataset) -> None:
    assert without_split(capture(store, dataset)) == EXPECTED
    assert without_split(read_head(dataset, 1).to_pylist()) == EXPECTED[:1]


def test_a_stream_gives_what_the_dataset_gives(store: Store, dataset: datasets.Dataset) -> None:
    assert without_split(capture(store, dataset.to_iterable_dataset())) == EXPECTED


def test_rows_that_are_chosen_are_those_captured(store: Store, dataset: datasets.Dataset) -> None:
    chosen = dataset.select([1, 0, 1])
    assert without_split(capture(store, chosen)) == [EXPECTED[1], EXPECTED[0], EXPECTED[1]]


def test_files_that_a_dataset_points_to_are_captured(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(CONTENT)
    data = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png"), None]})
    data = data.cast_column("image", datasets.Image())
    (row, none) = capture(store, data)
    assert (row["image"], none["image"]) == (CONTENT, None)


def test_sounds_are_the_bytes_of_their_files(store: Store) -> None:
    rows = [{"sound": {"bytes": b"RIFF", "path": "a.wav"}}]
    data = datasets.Dataset.from_list(rows).cast_column("sound", datasets.Audio())
    assert capture(store, data)[0]["sound"] == b"RIFF"


def test_splits_are_ours(store: Store, dataset: datasets.Dataset) -> None:
    both = datasets.DatasetDict({"train": dataset, "validation": dataset.select([0])})
    assert [row["__split__"] for row in capture(store, both)] == [0, 0, 1]
    streamed = datasets.IterableDatasetDict({"test": dataset.to_iterable_dataset()})
    assert [row["__split__"] for row in capture(store, streamed)] == [2, 2]
    other = datasets.DatasetDict({"unsupervised": dataset})
    with pytest.raises(SourceError, match=r'T0402.*"unsupervised" is no split'):
        register_source(store, "s", other)


def test_rows_that_are_computed_are_captured_as_computed(
    store: Store, dataset: datasets.Dataset
) -> None:
    def give() -> Iterator[dict[str, Any]]:
        yield {"image": Image.fromarray(PIXELS), "text": None}
        yield {"image": Image.fromarray(PIXELS), "text": "x"}

    generated = datasets.IterableDataset.from_generator(give)
    assert capture(store, generated) == [
        {"image": npy(PIXELS), "text": text, "__split__": 0} for text in (None, "x")
    ]

    def transform(rows: dict[str, Any]) -> dict[str, Any]:
        return {"n": [len(each) for each in rows["items"]]}

    assert capture(store, dataset.with_transform(transform)) == [
        {"n": 2, "__split__": 0},
        {"n": 0, "__split__": 0},
    ]
