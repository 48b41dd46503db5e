"""Everything that works on a store in a folder works on one behind a URL, and gives the same."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import StoreError
from taskloom.pipeline import Mixture, Source, Task, build, evaluate, fit, open_plan, train, why
from taskloom.pipeline.builder.bad_rows import group_bad_rows
from taskloom.pipeline.builder.replaying import Outcome, replay_row
from taskloom.pipeline.cli import verify as verify_verb
from taskloom.pipeline.config.project import load_project
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint
from taskloom.storage.remote import RemoteFolder
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from ..s3 import SECRET, make_bucket, objects
from .rows import digit_rows, digits_mixture, digits_task, mix, tree
from .train.stores import CONFIG, MODEL

pytestmark = pytest.mark.usefixtures("cache")
NUMBERS = count()


def lasting(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what varies between equal builds."""
    varying = ("builds/", "measures/")
    return {name: content for name, content in files.items() if not name.startswith(varying)}


@pytest.mark.slow
def test_workers_build_into_a_bucket_what_they_build_into_a_folder(
    s3: dict[str, Any], digits_dir: Path
) -> None:
    url = f"{make_bucket(s3, 'built')}/store"
    report = build(digits_mixture(), url, storage_options=s3, progress=False, workers=2)
    assert report.partitions == 3
    there = objects(url, s3)
    assert lasting(there) == lasting(tree(digits_dir))
    assert not [name for name, content in there.items() if SECRET.encode() in content]
    store = Store.open(url, storage_options=s3)
    assert verify(store).problems == ()


@pytest.mark.slow
def test_rows_in_a_bucket_are_built_by_workers(
    s3: dict[str, Any], parts: Mixture, parts_tree: dict[str, bytes], tmp_path: Path
) -> None:
    files: Any = parts["digits"].source
    url = make_bucket(s3, "parts")
    for path in files.data:
        content = Path(path).read_bytes()
        RemoteFolder(url, Store.create(tmp_path, storage_options=s3).access).write(
            Path(path).name, content
        )
    tasks = [digits_task(Source("digits", f"{url}/*.parquet")), parts["words"]]
    store = tmp_path / "store"
    report = build(mix(*tasks), store, storage_options=s3, progress=False, workers=2)
    assert report.rejects == 1
    here = lasting(tree(store))
    assert here.keys() == lasting(parts_tree).keys()
    differing = {name for name in here if here[name] != parts_tree[name]}
    assert differing == {"sources/digits/source.json"}


@pytest.fixture(scope="module")
def memory_store() -> Store:
    """A store in memory, with a bad row."""
    rows = digit_rows()
    rows[3]["image"] = b"notajpeg"
    store = Store.create(f"memory://spoiled-{next(NUMBERS)}/store")
    build(mix(digits_task(Source("digits", rows))), store, progress=False)
    return store


def test_a_store_in_memory_is_built_verified_and_asked(memory_store: Store) -> None:
    assert verify(memory_store).problems == ()
    (group,) = group_bad_rows(memory_store)
    (replay,) = replay_row(memory_store, group.ids[0])
    assert replay.outcome is not Outcome.WORKS
    rows = digit_rows()
    rows[3]["image"] = b"notajpeg"
    mixture = mix(digits_task(Source("digits", rows)))
    assert build(mixture, memory_store, progress=False).partitions == 0
    assert not any(column.missing for column in why(mixture, memory_store))
    assert open_plan(mixture, memory_store)["digits.image/resize"]


@pytest.mark.parametrize("kind", ["memory", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_model_learns_from_afar_as_from_a_folder(
    request: pytest.FixtureRequest, kind: str, digits_dir: Path, tmp_path: Path
) -> None:
    options = request.getfixturevalue("s3") if kind == "s3" else {}
    url = make_bucket(options, "learned") if options else f"memory://learned-{next(NUMBERS)}"
    here = Store.open(digits_dir)
    there = Store.create(f"{url}/store", storage_options=options, cache_bytes=1)
    for name, content in tree(digits_dir).items():
        there.folder.write(name, content)
    tensors: list[Any] = []
    scores: list[str] = []
    for name, store in (("here", here), ("there", there)):
        out = tmp_path / name
        settings: dict[str, Any] = {"model": MODEL, "config": CONFIG, "steps": 4}
        run = train(digits_mixture(), store, out=out, progress=False, **settings)
        scores.append(str(evaluate(run.model, digits_mixture(), store)))
        path = latest_checkpoint(out)
        assert path is not None
        tensors.append(read_checkpoint(path).tensors)
    assert scores[0] == scores[1]
    assert all(tensors[1][name].equal(tensor) for name, tensor in tensors[0].items())


def test_a_run_behind_a_url_is_refused(digits_dir: Path) -> None:
    with pytest.raises(StoreError, match=r"(?s)T0501.*on s3.*runs and checkpoints not"):
        train(digits_mixture(), digits_dir, out="s3://bucket/run", progress=False)


def test_a_store_in_memory_is_no_place_for_the_processes_of_a_client() -> None:
    for verb in (build, fit):
        with pytest.raises(StoreError, match=r"(?s)T0501.*this process alone.*do without a client"):
            verb(
                digits_mixture(), f"memory://no-{next(NUMBERS)}/s", client=object(), progress=False
            )


def test_a_url_names_its_source_wherever_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("a", "-> [TEXT:a]", source="s3://bucket/rows.csv")
    before = task.named_source().name
    monkeypatch.chdir(tmp_path)
    assert task.named_source().name == before
    assert before.startswith("rows-")


def test_a_project_names_a_url_and_how_it_is_opened(
    s3: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{make_bucket(s3, 'project')}/store"
    path = tmp_path / "p.yaml"
    path.write_text(
        f"store: {url}\nout: run\nstorage_options: {json.dumps(s3)}\n"
        'tasks: {a: {instruction: "-> [TEXT:a]", source: rows.csv}}\n'
    )
    project = load_project(path)
    assert project.store == url
    assert SECRET not in repr(project)
    assert project.find_store() is None
    Store.create(url, storage_options=s3)
    assert project.find_store() == project.open_store()
    verify_verb(str(path))
    assert "verified 0 partitions" in capsys.readouterr().out
