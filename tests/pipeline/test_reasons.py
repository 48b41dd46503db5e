"""For every change that a person makes, `why` names the columns that follow from it, and no others."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import PlanError
from taskloom.graph.view import Status
from taskloom.ops.host.image import ResizeImages
from taskloom.pipeline import Mixture, Source, Task, Why, build, why
from taskloom.pipeline.viewer.reasons import ColumnWhy
from taskloom.storage.receipt import Receipt
from taskloom.storage.store import Store

from .rows import Row, digit_rows, run, write_parquet

DIGITS = "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"
NAMES = "name [IMAGE:image] -> [TEXT:note]"
COLUMNS = {
    ("digits", "digits.image/resize"),
    ("digits", "digits.label/encode"),
    ("digits", "digits/split"),
    ("names", "names.image/resize"),
    ("names", "names.note/encode"),
    ("names", "names/split"),
}


def write_rows(path: Path, rows: list[Row]) -> Path:
    """Write rows as a file that was not touched for a while."""
    write_parquet(path, rows)
    before = time.time_ns() - 10**10
    os.utime(path, ns=(before, before))
    return path


def mixture(folder: Path, **changes: Any) -> Mixture:
    """Return two tasks over three files that share their pictures."""
    given: dict[str, Any] = {
        "size": 16,
        "digits": DIGITS,
        "names": NAMES,
        "holdout": 0.2,
        "where": (),
    }
    given |= changes
    files = given.get("files") or [str(folder / f"{i}.parquet") for i in range(3)]
    source = Source("digits", files)
    shared: dict[str, Any] = {"holdout": given["holdout"], "key": "id"}
    tasks = [
        Task("digits", given["digits"], source=source, where=given["where"], **shared),
        Task("names", given["names"], source=source, **shared),
    ]
    tasks += [Task(*more, source=source, **shared) for more in given.get("more", ())]
    slots = {"IMAGE": {"size": given["size"], "patch": 8}}
    return Mixture(tasks, slots=slots, bpe_size=300)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three files, and a store of both tasks over them; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("why")
    rows = digit_rows(60)
    for row in rows:
        row["copy"] = row["image"]
    for number in range(3):
        write_rows(folder / f"{number}.parquet", rows[20 * number : 20 * number + 20])
    run(mixture(folder), folder / "store")
    return folder


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Callable[[], Path]:
    """Return a function that copies the folder, the times of its files included."""

    def copy() -> Path:
        shutil.copytree(built, tmp_path / "own")
        run(mixture(tmp_path / "own"), tmp_path / "own" / "store")
        return tmp_path / "own"

    return copy


def stale(found: Why) -> dict[tuple[str, str], str]:
    """Return the reasons of the columns that are to be built."""
    return {(c.task, c.address): str(c) for c in found if c.status is not Status.CACHED}


def only(found: Why) -> ColumnWhy:
    (column,) = (c for c in found if c.status is not Status.CACHED)
    return column


def test_after_a_build_everything_is_cached_and_shared_columns_say_with_whom(built: Path) -> None:
    found = why(mixture(built), built / "store")
    assert {(c.task, c.address) for c in found} == COLUMNS
    assert stale(found) == {}
    assert str(found).endswith("\nnothing to build: everything is cached")
    (image,) = (c for c in found["names"] if c.address == "names.image/resize")
    assert str(image) == "3 of 3 partitions; shared with digits"


def test_a_prompt_edit_builds_nothing(built: Path) -> None:
    edited = mixture(built, digits=DIGITS.replace("what does the image describe?", "which one?"))
    assert stale(why(edited, built / "store")) == {}


SIZE = "digits.image/resize: height was 16, is 24, width was 16, is 24"
UNCASED = "digits.label/normalize: is_lowercase was False, is True"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"size": 24},
            {
                ("digits", "digits.image/resize"): f"{SIZE}; shared with names",
                ("names", "names.image/resize"): f"{SIZE}; shared with digits",
            },
            id="attribute of a modality",
        ),
        pytest.param(
            {"digits": DIGITS.replace("closed_set", "closed_set,uncased,max_length=9")},
            {
                ("digits", "digits.label/encode"): f"{UNCASED}; "
                "digits.label/encode: max_length was None, is 9"
            },
            id="two parameters at once",
        ),
        pytest.param(
            {"digits": DIGITS.replace(",closed_set", "")},
            {
                (
                    "digits",
                    "digits.label/encode",
                ): "digits.label/normalize: restrict_texts was left out"
            },
            id="an op less",
        ),
        pytest.param(
            {"holdout": 0.3},
            {
                ("digits", "digits/split"): "digits/split: test was 0.2, is 0.3; shared with names",
                ("names", "names/split"): "digits/split: test was 0.2, is 0.3; shared with digits",
            },
            id="share held out",
        ),
        pytest.param(
            {"where": "label != '7'"},
            {("digits", "digits/where.label/compare"): "never built"},
            id="filter",
        ),
        pytest.param(
            {"names": NAMES.replace(":image", ":copy")},
            {("names", "names.copy/resize"): "names.copy: column was image, is copy"},
            id="renamed slot",
        ),
        pytest.param(
            {"more": [("more", "again [IMAGE:image] -> [TEXT:id]")]},
            {("more", "more.id/encode"): "never built"},
            id="new task that shares a column",
        ),
    ],
)
def test_a_change_names_what_follows_from_it_and_nothing_else(
    built: Path, changes: dict[str, Any], expected: dict[tuple[str, str], str]
) -> None:
    assert stale(why(mixture(built, **changes), built / "store")) == expected


def test_a_new_version_of_an_op_is_told(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResizeImages, "traits", replace(ResizeImages.traits, version=9))
    found = stale(why(mixture(built), built / "store", task="digits"))
    reason = "digits.image/resize: version of resize_images was 1, is 9; shared with names"
    assert found == {("digits", "digits.image/resize"): reason}


def test_an_artifact_that_was_fitted_again_is_told_of_all_that_reads_it(
    own: Callable[[], Path],
) -> None:
    folder = own()
    store = Store.open(folder / "store")
    content = store.artifact_content(store.artifacts()["bpe-main"].digest)
    store.pin("bpe-main", "bpe", content.replace(b'"!"', b'"\xc4\xa0!"', 1))
    found = why(mixture(folder), store)
    assert stale(found) == {
        ("digits", "digits.label/encode"): "bpe-main was fitted again",
        ("names", "names.note/encode"): "bpe-main was fitted again",
    }


def test_an_artifact_that_is_gone_is_to_be_fitted_first(own: Callable[[], Path]) -> None:
    folder = own()
    (folder / "store" / "artifacts" / "closed-set-digits.label.json").unlink()
    found = why(mixture(folder), folder / "store")
    column = only(found)
    assert str(column) == "closed-set-digits.label is to be fitted again"
    assert column.changes[0].what == "artifact"
    assert found.fits == ("closed-set-digits.label",)


def test_a_new_file_leaves_the_partitions_of_the_others_alone(own: Callable[[], Path]) -> None:
    folder = own()
    write_rows(folder / "3.parquet", [row | {"copy": b""} for row in digit_rows(5, 70)])
    found = why(mixture(folder, files=str(folder / "*.parquet")), folder / "store")
    assert {(c.task, c.address) for c in found} == COLUMNS
    assert {(c.status, c.partitions, c.missing) for c in found} == {(Status.MISSING, 4, 1)}
    assert {c.reason for c in found} == {"1 of 4 partitions to build: 3.parquet was added"}
    report = run(mixture(folder, files=str(folder / "*.parquet")), folder / "store")
    assert report.partitions == len({c.column for c in found})


def test_a_changed_file_is_named_with_its_rows_and_nothing_is_written(
    own: Callable[[], Path],
) -> None:
    folder = own()
    rows = [row | {"copy": b""} for row in digit_rows(25, 20)]
    write_rows(folder / "1.parquet", rows)
    recorded = (folder / "store" / "sources" / "digits" / "source.json").read_bytes()
    found = why(mixture(folder), folder / "store")
    reason = "1 of 3 partitions to build: 1.parquet changed: it had 20 rows, it has 25"
    assert {c.reason for c in found} == {reason}
    assert {c.files[0].fate for c in found} == {"changed"}
    assert (folder / "store" / "sources" / "digits" / "source.json").read_bytes() == recorded


def test_a_file_that_moved_or_was_left_out_builds_nothing(own: Callable[[], Path]) -> None:
    folder = own()
    (folder / "1.parquet").rename(folder / "one.parquet")
    files = [str(folder / name) for name in ("0.parquet", "one.parquet")]
    assert stale(why(mixture(folder, files=files), folder / "store")) == {}


def test_partitions_of_other_library_versions_are_counted(own: Callable[[], Path]) -> None:
    folder = own()
    receipts = sorted((folder / "store" / "columns").glob("*/*/*.receipt"))
    older = [path for path in receipts if b'"pillow"' in path.read_bytes()][:2]
    for path in older:
        receipt = Receipt.decode(path.read_bytes(), path.name)
        path.write_bytes(replace(receipt, libraries={"pillow": "0.9"}).encode())
    found = why(mixture(folder), folder / "store", task="digits")
    (image,) = (c for c in found if c.libraries)
    assert (image.address, image.status) == ("digits.image/resize", Status.CACHED)
    assert "2 partitions were built with pillow 0.9, " in str(image)
    assert [(each.was, each.partitions) for each in image.libraries] == [("0.9", 2)]


def test_rows_of_a_program_and_files_that_are_gone_are_remarked(own: Callable[[], Path]) -> None:
    folder = own()
    (folder / "1.parquet").unlink()
    found = why(mixture(folder), folder / "store")
    assert stale(found) == {}
    assert "source digits cannot be looked at: there is no file" in found.remarks[0]
    captured = Mixture([Task("w", "[TEXT:a] -> [TEXT:b]", source=[{"a": "x", "b": "y"}])])
    build(captured, folder / "other", progress=False)
    assert "is given by a program" in why(captured, folder / "other").remarks[0]


def test_a_store_that_never_heard_of_a_task_says_so(built: Path, tmp_path: Path) -> None:
    Store.create(tmp_path / "empty")
    found = why(mixture(built), tmp_path / "empty")
    assert {c.reason for c in found} == {"never built"}
    assert "bpe-main is to be fitted" in str(found)
    with pytest.raises(PlanError, match="did you mean names"):
        why(mixture(built), built / "store", task="name")
