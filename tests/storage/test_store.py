"""A store is opened, refused or made; names point at artifacts and records."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from taskloom.graph.errors import StoreError
from taskloom.storage.store import Store


def test_a_store_is_made_once_and_opened_afterwards(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "store")
    assert Store.create(tmp_path / "store") == Store.open(tmp_path / "store") == made
    assert json.loads((tmp_path / "store" / "store.json").read_bytes()) == {"format": 1}
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, r"T0503.*there is no store at .*(?s:.)*a build makes", id="missing"),
        pytest.param(
            {"a": ""}, r"T0503.*is not a store: it has no store.json", id="another folder"
        ),
        pytest.param({"store.json": '{"format": 2}'}, r"T0502.* format 2, .* up to 1", id="newer"),
        pytest.param({"store.json": '{"form'}, r"T0504.*store.json is damaged", id="torn"),
        pytest.param({"store.json": "[]"}, r"T0504.*names no format", id="no format"),
    ],
)
def test_what_is_no_store_of_ours_is_refused(
    tmp_path: Path, content: dict[str, str] | None, message: str
) -> None:
    folder = tmp_path / "store"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(StoreError, match=message):
        Store.open(folder)


def test_a_folder_with_other_files_does_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"T0503.*holds other files"):
        Store.create(tmp_path)


@pytest.mark.parametrize("name", ["file/store", "long" * 100])
def test_a_path_that_the_operating_system_refuses_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="T0512"):
        Store.create(tmp_path / name)


def test_a_pinned_artifact_is_found_by_name_and_content(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    first = store.pin("bpe-main", "bpe", b"merges", {"size": 4096})
    assert store.artifacts() == {"bpe-main": first}
    assert store.artifact_content(first.digest) == b"merges"
    second = store.pin("bpe-main", "bpe", b"other merges")
    assert store.artifacts() == {"bpe-main": second}
    assert store.artifact_content(first.digest) == b"merges"
    assert store.pin("again", "bpe", b"merges").digest == first.digest


def test_a_damaged_or_unknown_artifact_is_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    artifact = store.pin("bpe-main", "bpe", b"merges")
    (tmp_path / "artifacts" / f"{artifact.digest}.bin").write_bytes(b"mergers")
    with pytest.raises(StoreError, match=r"T0504.*does not match its name"):
        store.artifact_content(artifact.digest)
    with pytest.raises(StoreError, match="T0507"):
        store.artifact_content("0" * 32)


def test_records_come_back_and_unknown_ones_name_the_nearest(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    store.write_task("caption", {"instruction": "→", "columns": ["a"]})
    assert store.tasks() == ("caption",)
    assert store.task("caption") == {"instruction": "→", "columns": ["a"]}
    with pytest.raises(StoreError, match=r"(?s)T0507.*\"captoin\".*did you mean caption?"):
        store.task("captoin")
    with pytest.raises(StoreError, match=r"T0507.*source \"digits\""):
        store.source("digits")


@pytest.mark.parametrize("name", ["", "a/b", "..", "\0", ".hidden"])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    store = Store.create(tmp_path)
    with pytest.raises(StoreError, match="T0509"):
        store.write_task(name, {})
    with pytest.raises(StoreError, match="T0509"):
        store.source_folder(name)
