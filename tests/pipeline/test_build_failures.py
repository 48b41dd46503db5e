"""Bad rows are told and the build goes on; whatever else is wrong is told where, and what to do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import (
    OpError,
    PlanError,
    RowError,
    SourceError,
    StoreError,
)
from taskloom.pipeline import Source, Task
from taskloom.storage.ledger import open_capsule, read_ledger
from taskloom.storage.store import Store

from .rows import (
    DIGITS,
    NUM_ROWS,
    digit_rows,
    digits_task,
    mix,
    run,
    spoiled,
    tree,
)


def test_the_ledger_lists_exactly_the_images_that_are_none(tmp_path: Path) -> None:
    report = run(spoiled(), tmp_path)
    assert (report.rows, report.rejects) == (NUM_ROWS, 2)
    assert report.tasks == {"digits": (NUM_ROWS, 2)}
    assert "digits: 2 of 60 rows are bad; the ledger says why" in str(report)
    store = Store.open(tmp_path)
    entries = read_ledger(store).to_pylist()
    assert [entry["offset"] for entry in entries] == [3, 41]
    for entry in entries:
        assert (entry["source"], entry["code"]) == ("digits", "T0301")
        assert entry["address"] == "digits.image/decode"
        assert entry["message"] == "cannot identify image file"
        assert entry["column"] == "image (8 bytes, starts b'notajpeg')"
        assert open_capsule(entry["capsule"]).to_pylist() == [{"image": b"notajpeg"}]
    (problem,) = report.problems
    partition = entries[0]["partition"]
    assert str(problem) == (
        "error[T0301]: cannot identify image file\n"
        f"  node digits.image/decode    row {partition}:3    column image (8 bytes, starts b'notajpeg')\n"
        "  --> digits:1\n"
        f"   | {DIGITS}\n"
        "   | ^^^^^^^^^^^^^\n"
        f"   = replay: taskloom replay {tmp_path} {partition[:4]}:3"
    )


def test_a_store_with_bad_rows_is_complete_and_still_says_so(tmp_path: Path) -> None:
    run(spoiled(), tmp_path)
    again = run(spoiled(), tmp_path)
    assert again.partitions == 0
    assert again.tasks == {"digits": (NUM_ROWS, 2)}


def test_a_row_that_is_bad_in_two_columns_is_one_bad_row(tmp_path: Path) -> None:
    rows = digit_rows()
    rows[3]["label"] = None
    report = run(spoiled(rows), tmp_path)
    assert report.rejects == 2
    assert [problem.code for problem in report.problems] == ["T0301", "T0302"]
    assert read_ledger(Store.open(tmp_path)).num_rows == 3


def test_a_held_out_label_outside_the_closed_set_is_a_bad_row(tmp_path: Path) -> None:
    train, test = digit_rows(20), digit_rows(5, 20)
    test[2]["label"] = "seven"
    source = Source("digits", {"train": train, "test": test})
    report = run(mix(Task("digits", DIGITS, source=source)), tmp_path)
    (entry,) = read_ledger(Store.open(tmp_path)).to_pylist()
    assert (entry["offset"], entry["code"]) == (2, "T0304")
    assert entry["address"] == "digits.label/restrict"
    assert entry["message"].startswith('"seven" is not in the closed set')
    assert report.tasks == {"digits": (25, 1)}


def test_a_bad_row_ends_the_build_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RowError) as caught:
        run(spoiled(), tmp_path, on_error="raise")
    assert [problem.code for problem in caught.value.problems] == ["T0301"] * 2
    assert [problem.row.partition(":")[2] for problem in caught.value.problems] == ["3", "41"]
    with pytest.raises(RowError):
        run(spoiled(), tmp_path, on_error="raise")
    assert run(spoiled(), tmp_path).rejects == 2


@pytest.mark.parametrize("limit", [2, 0.04])
def test_as_many_bad_rows_as_are_allowed_end_no_build(limit: float, tmp_path: Path) -> None:
    assert run(spoiled(), tmp_path, max_errors=limit).rejects == 2


@pytest.mark.parametrize("limit", [0, 1, 0.03])
def test_more_bad_rows_than_are_allowed_end_the_build(limit: float, tmp_path: Path) -> None:
    with pytest.raises(OpError) as caught:
        run(spoiled(), tmp_path, max_errors=limit)
    assert [problem.code for problem in caught.value.problems] == ["T0313", "T0301"]
    assert f"2 rows are bad, and max_errors allows {limit:g}" in str(caught.value)
    # What was built stays, and is not built again.
    assert run(spoiled(), tmp_path).cached > 0


def test_an_image_column_of_numbers_ends_the_build_and_the_node_is_named(tmp_path: Path) -> None:
    rows = [{"id": i, "image": i, "label": "a"} for i in range(5)]
    with pytest.raises(OpError) as caught:
        run(mix(digits_task(Source("digits", rows))), tmp_path)
    (problem,) = caught.value.problems
    assert problem.code == "T0305"
    assert "values of type int64 cannot be decoded as images" in problem.message
    assert problem.address == "digits.image/decode"
    assert problem.row.startswith("digits/")
    assert [site.label for site in problem.sites] == ["digits:1"]


def test_a_filter_that_compares_texts_with_numbers_names_its_node(tmp_path: Path) -> None:
    with pytest.raises(OpError, match=r"T0305.*cannot be asked") as caught:
        run(mix(digits_task(digit_rows(), where="label > 3")), tmp_path)
    assert caught.value.problems[0].address == "digits/where.label/compare"


def test_labels_without_a_training_row_are_told_of_their_closed_set(tmp_path: Path) -> None:
    source = Source("digits", {"test": digit_rows(5)})
    with pytest.raises(OpError, match="T0310") as caught:
        run(mix(Task("digits", DIGITS, source=source)), tmp_path)
    assert caught.value.problems[0].address == "closed-set-digits.label"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param([], "T0404", id="no rows"),
        pytest.param("nowhere.parquet", "T0401", id="no file"),
        pytest.param("*.csv", "T0401", id="no match"),
        pytest.param(7, "T0402", id="no source"),
        pytest.param([{"id": 1}, {"id": "x"}], "T0405", id="rows that do not agree"),
    ],
)
def test_a_source_that_cannot_be_read_is_told_with_its_task(
    data: Any, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=code) as caught:
        run(mix(digits_task(data)), tmp_path / "store")
    assert caught.value.problems[0].address == "digits"


def test_an_unknown_column_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="did you mean label"):
        run(mix(digits_task(digit_rows(), DIGITS.replace("label", "labl"))), tmp_path)
    assert not (tmp_path / "columns").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_told_and_what_was_committed_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    instruction = "[TEXT:note] [IMAGE:image] -> [TEXT:label]"  # columns are built in this order
    task = digits_task(Source("digits", digit_rows()), instruction)
    mixture = mix(task, slots={"IMAGE": {"size": 80}})
    with pytest.raises(StoreError) as caught:
        run(mixture, small_disk / "store")
    (problem,) = caught.value.problems
    assert problem.code == "T0505"
    assert "disk is full: cannot write" in problem.message
    assert problem.row.startswith("digits/")
    assert "start again" in problem.help
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert run(mixture, small_disk / "store").cached > 0
    run(mixture, tmp_path / "whole")
    assert tree(small_disk / "store") == tree(tmp_path / "whole")
