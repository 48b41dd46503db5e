"""Whatever happens around a build, it ends well or says what to do; the store holds whole partitions only."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskloom.graph.errors import OpError, SourceError, StoreError
from taskloom.pipeline import Mixture, Source, fit
from taskloom.pipeline.builder import building
from taskloom.pipeline.builder.dataset import open_dataset
from taskloom.storage.ledger import read_ledger
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from .rows import DIGITS, digit_rows, digits_mixture, digits_task, mix, run, tree, write_parquet

HERE = Path(__file__).parent
NUM_FILES = 4


def files_mixture(folder: Path, **settings: Any) -> Mixture:
    """Return a mixture over a few files, which are written unless they are there."""
    paths = [folder / f"{number}.parquet" for number in range(NUM_FILES)]
    for number, path in enumerate(paths):
        if not path.exists():
            write_parquet(path, digit_rows(15, 15 * number))
    source = Source("digits", [str(path) for path in paths])
    return mix(digits_task(source, **settings))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of `files_mixture` that nobody disturbed, without the names of the files it is read from."""
    folder = tmp_path_factory.mktemp("whole")
    run(files_mixture(folder), folder / "store")
    return columns_of(folder / "store")


def columns_of(store: Path) -> dict[str, bytes]:
    """Return the files of ``store``, without the record that names the files it is read from."""
    return {name: content for name, content in tree(store).items() if "source.json" not in name}


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes find the functions of these tests."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.mark.parametrize(
    ("how", "num_builds"),
    [
        ("segfault", 1),
        pytest.param("segfault", 3, marks=pytest.mark.slow),  # a worker dies twice in each
        pytest.param("hang", 1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("functions")
def test_a_row_that_kills_every_worker_costs_its_partition_and_no_other(
    how: str,
    num_builds: int,
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixture = files_mixture(tmp_path)
    store = tmp_path / "store"
    run(mixture, tmp_path / "fitted")
    for name, artifact in (fitted := Store.open(tmp_path / "fitted")).artifacts().items():
        content = fitted.artifact_content(artifact.digest)
        Store.create(store).pin(name, artifact.kind, content, artifact.made_by)
    poisoned = fitted.source("digits").partitions[1].id
    monkeypatch.setenv("POISONED", f"{poisoned}:{how}")
    with monkeypatch.context() as patched:
        patched.setattr(building, "BUILD_PARTITION", "worker_functions:build_poisoned")
        errors: list[OpError] = []
        for _ in range(num_builds):
            with pytest.raises(OpError) as caught:
                run(mixture, store, timeout_s=4.0 if how == "hang" else 60.0)
            errors.append(caught.value)
    heading, *problems = errors[-1].problems
    assert (heading.code, heading.message) == (
        "T0322",
        "1 partition could not be built; all others are",
    )
    assert {p.code for p in problems} == {"T0320" if how == "segfault" else "T0321"}
    assert {p.row for p in problems} == {f"digits/{poisoned}"}
    assert "digits.image/decode" in {p.address for p in problems}
    assert ("signal 11" if how == "segfault" else "for 4 s") in str(errors[-1])
    everything = {p.id for p in fitted.source("digits").partitions}
    built = [{path.stem for path in f.glob("*.receipt")} for f in store.glob("columns/*/*")]
    assert built.count(everything - {poisoned}) + built.count(everything) == 3
    assert built.count(everything - {poisoned}) >= 1
    assert verify(Store.open(store)).problems == ()
    with pytest.raises(StoreError, match="lacks 1 of 4 partitions"):
        open_dataset(mixture, Store.open(store))
    run(mixture, store)
    assert columns_of(store) == whole


def test_a_file_that_changes_during_a_build_is_told_and_the_others_are_built(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    mixture = files_mixture(tmp_path)
    run(mixture, tmp_path / "store")
    first = Store.open(tmp_path / "store").source("digits").partitions
    changed = tmp_path / "2.parquet"
    before = changed.read_bytes()

    def other_rows() -> Iterator[dict[str, Any]]:
        write_parquet(changed, digit_rows(15, 100))  # after the files were looked at
        yield from digit_rows(5)

    filtered = files_mixture(tmp_path, where="id != 'none'").tasks[0]
    other = digits_task(Source("other", other_rows), DIGITS.replace(",closed_set", ""), "other")
    with pytest.raises(SourceError) as caught:
        run(mix(filtered, other), tmp_path / "store")
    heading, problem = caught.value.problems
    assert (heading.code, problem.code) == ("T0322", "T0406")
    assert problem.row == f"digits/{first[2].id}"
    assert "2.parquet has changed" in problem.message
    assert verify(Store.open(tmp_path / "store")).problems == ()
    changed.write_bytes(before)
    assert run(mix(filtered), tmp_path / "store").partitions == 1
    expected = {name: content for name, content in whole.items() if name.startswith("columns")}
    assert expected.items() <= tree(tmp_path / "store").items()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a built store, mounted so that not even root may write to it."""
    path = tmp_path / "read only"
    run(digits_mixture(), path / "store")
    done = [
        subprocess.run(["mount", *words, str(path)], capture_output=True, text=True, check=False)
        for words in (["--bind", str(path)], ["-o", "remount,bind,ro"])
    ]
    if done[0].returncode:
        pytest.skip(f"nothing can be mounted here: {done[0].stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_store_that_cannot_be_written_is_told_and_can_still_be_read(read_only: Path) -> None:
    before = tree(read_only / "store")
    grown = mix(digits_task(Source("digits", digit_rows(70))))
    with pytest.raises(StoreError, match=r"(?s)T0506.*Read-only file system.*must be writable"):
        run(grown, read_only / "store")
    with pytest.raises(StoreError, match="T0506"):
        run(digits_mixture(), read_only / "new")
    store = Store.open(read_only / "store")
    assert len(open_dataset(digits_mixture(), store).rows("digits", "train").usable)
    assert verify(store).problems == ()
    assert tree(read_only / "store") == before


def test_a_complete_store_that_cannot_be_written_is_built_already(read_only: Path) -> None:
    assert run(digits_mixture(), read_only / "store").partitions == 0


def test_a_build_under_a_reader_leaves_what_it_reads_as_it_was(tmp_path: Path) -> None:
    paths = [write_parquet(tmp_path / f"{i}.parquet", digit_rows(15, 15 * i)) for i in range(4)]
    few = mix(digits_task(Source("digits", [str(path) for path in paths[:2]])))
    run(few, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    dataset = open_dataset(few, store)
    (image,) = (v for v in dataset.plan.cut.stored if dataset.plan.graph.type_of(v).kind == "image")
    column = dataset.columns["digits", image.column_id]
    expected = np.asarray(column.gather(np.arange(30)))
    stop = threading.Event()
    seen: list[bool] = []

    def read() -> None:
        while not stop.is_set():
            rows = np.random.default_rng(len(seen)).permutation(30)
            seen.append(bool((np.asarray(column.gather(rows)) == expected[rows]).all()))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        more = mix(digits_task(Source("digits", [str(path) for path in paths])))
        run(more, tmp_path / "store")
        fit(more, store, again=["bpe-main", "closed-set-digits.label"], progress=False)
        run(more, tmp_path / "store")
    finally:
        stop.set()
        reader.join()
    assert len(seen) > 10
    assert all(seen)
    assert column.num_rows == 30
    assert len(open_dataset(more, store).rows("digits", "train").expected) > 30


@pytest.mark.parametrize("num_rows", [500, pytest.param(5_000, marks=pytest.mark.slow)])
def test_one_image_in_a_hundred_is_corrupt_and_the_ledger_lists_exactly_those(
    num_rows: int, tmp_path: Path
) -> None:
    good = digit_rows(100)
    rows = [{**good[i % 100], "id": i} for i in range(num_rows)]
    moment = np.random.default_rng(0)
    bad = sorted(moment.choice(num_rows, num_rows // 100, replace=False).tolist())
    for number, row in enumerate(bad):
        image: bytes = rows[row]["image"]
        # Cut short, another kind of file, nothing at all, and a header without an end.
        rows[row]["image"] = [image[: len(image) // 2], b"GIF89a", b"", image[:20]][number % 4]
    paths = [
        write_parquet(tmp_path / f"{first:05}.parquet", rows[first : first + num_rows // 5])
        for first in range(0, num_rows, num_rows // 5)
    ]
    mixture = mix(digits_task(Source("digits", [str(path) for path in paths])))
    report = run(mixture, tmp_path / "store", workers=2)
    assert report.rejects == len(bad)
    store = Store.open(tmp_path / "store")
    starts = {p.id: i * (num_rows // 5) for i, p in enumerate(store.source("digits").partitions)}
    entries = read_ledger(store).to_pylist()
    assert sorted(starts[e["partition"]] + e["offset"] for e in entries) == bad
    assert {entry["code"] for entry in entries} == {"T0301"}
    assert run(mixture, tmp_path / "store").partitions == 0
