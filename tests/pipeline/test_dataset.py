"""Training sees the rows that a task has, all of them and no others, or is told what is missing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taskloom.graph.errors import StoreError
from taskloom.ops.host.bpe import Bpe
from taskloom.ops.host.closed_set import ClosedSet
from taskloom.pipeline import Source, Task
from taskloom.pipeline.builder.dataset import open_dataset
from taskloom.storage.ledger import read_ledger
from taskloom.storage.store import Store

from .rows import (
    DIGITS,
    NUM_ROWS,
    WORDS,
    digit_rows,
    digits_mixture,
    digits_task,
    mix,
    run,
    spoiled,
)


def test_stored_pixels_and_ids_are_those_of_the_rows(digits_dir: Path) -> None:
    store = Store.open(digits_dir)
    dataset = open_dataset(digits_mixture(), store)
    plan = dataset.plan
    rows = digit_rows()
    (image,) = (v for v in plan.cut.stored if plan.graph.nodes[v.node].op == "resize_images")
    pixels = dataset.columns["digits", image.column_id].gather(np.arange(NUM_ROWS))
    for number in (0, 17, NUM_ROWS - 1):
        picture = Image.open(io.BytesIO(rows[number]["image"])).convert("RGB")
        expected = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(np.asarray(pixels)[number], expected)
    bpe = Bpe(store.artifact_content(store.artifacts()["bpe-main"].digest))
    ids: Any = dataset.target("digits", "label")[0].take(np.arange(NUM_ROWS)).to_pylist()
    assert [bpe.decode(row) for row in ids] == [row["label"] for row in rows]


def test_rows_that_a_filter_leaves_out_are_neither_fitted_on_nor_counted(tmp_path: Path) -> None:
    rows = digit_rows()
    for number, row in enumerate(rows):
        row["is_clean"] = number % 3 > 0
        row["rating"] = number / NUM_ROWS
        row["label"] = "ab"[number % 2]
        if not row["is_clean"]:
            row["label"] = "unclean"
            row["image"] = b"notajpeg"
    rows[1]["rating"] = None
    source = Source("digits", rows)
    mixture = mix(digits_task(source, where=["is_clean", "rating < 0.5"]))
    report = run(mixture, tmp_path, on_error="raise")
    store = Store.open(tmp_path)
    dataset = open_dataset(mixture, store)
    kept = [i for i in range(2, NUM_ROWS // 2) if i % 3]
    used = [dataset.rows("digits", split).usable for split in ("train", "valid", "test")]
    assert sorted(np.concatenate(used).tolist()) == kept
    assert report.tasks["digits"] == (len(kept), 0)
    assert report.rejects == 0
    artifact = store.artifacts()["closed-set-digits.label"]
    answers = ClosedSet.from_bytes(store.artifact_content(artifact.digest)).answers
    assert "unclean" not in answers
    # The ledger is the column's, whoever filters it.
    assert {"T0301", "T0304"} == set(read_ledger(store).column("code").to_pylist())


def test_a_filter_on_texts_keeps_its_rows(tmp_path: Path) -> None:
    rows = [
        {"id": i, "note": "n", "label": "ab"[i % 2], "lang": ["de", "en", None][i % 3]}
        for i in range(12)
    ]
    task = Task("words", WORDS, source=rows, where="lang in ['de', 'fr']")
    run(mix(task), tmp_path)
    dataset = open_dataset(mix(task), Store.open(tmp_path))
    assert dataset.rows("words", "train").usable.tolist() == [0, 3, 6, 9]


def test_held_out_rows_are_chosen_by_their_key_and_stay_chosen(tmp_path: Path) -> None:
    rows = [{"id": i // 4, "note": f"n {i}", "label": "a"} for i in range(400)]
    held: list[set[int]] = []
    for name, some in (("all", rows), ("few", rows[::-3])):
        task = Task("words", WORDS, source=some, holdout=0.2, valid=0.2, key="id")
        run(mix(task), tmp_path / name)
        dataset = open_dataset(mix(task), Store.open(tmp_path / name))
        splits = {
            split: {some[row]["id"] for row in dataset.rows("words", split).usable}
            for split in ("train", "valid", "test")
        }
        assert not splits["train"] & splits["test"]
        assert not splits["valid"] & splits["test"]
        assert not splits["valid"] & splits["train"]
        held.append(splits["test"])
    assert 10 <= len(held[0]) <= 30
    assert held[0] >= held[1]


def test_training_on_a_store_that_lacks_a_task_names_it_and_says_to_build(
    digits_dir: Path,
) -> None:
    store = Store.open(digits_dir)
    other = mix(digits_task(Source("letters", []), name="letters"))
    with pytest.raises(StoreError) as caught:
        open_dataset(other, store)
    (problem,) = caught.value.problems
    assert problem.code == "T0511"
    assert 'task "letters" is not built' in problem.message
    assert "build" in problem.help


@pytest.mark.parametrize(
    ("instruction", "settings"),
    [
        pytest.param(DIGITS.replace("describe?", "describe? [TEXT:note]"), {}, id="new slot"),
        pytest.param(DIGITS.replace("image]", "image,size=32]", 1), {}, id="other size"),
        pytest.param(DIGITS, {"holdout": 0.3}, id="other share"),
        pytest.param(DIGITS, {"where": "id != 'digit-0000'"}, id="new filter"),
    ],
)
def test_training_on_a_stale_store_names_the_task_and_says_to_build(
    instruction: str, settings: dict[str, Any], digits_dir: Path
) -> None:
    stale = mix(digits_task(Source("digits", []), instruction, **settings))
    with pytest.raises(StoreError) as caught:
        open_dataset(stale, Store.open(digits_dir))
    for problem in caught.value.problems:
        assert problem.code == "T0511"
        assert 'task "digits" is not built' in problem.message
        assert "build" in problem.help
        assert problem.address


def test_training_on_an_unfitted_store_names_the_tasks(digits_dir: Path) -> None:
    free = mix(digits_task(Source("digits", []), name="other"))
    with pytest.raises(StoreError, match=r"T0511.*not built for other: it lacks closed-set-other"):
        open_dataset(free, Store.open(digits_dir))


@pytest.mark.parametrize("kind", ["arrow", "c.0.0.0.0", "lengths", "receipt"])
def test_a_truncated_file_is_told_when_training_opens_the_store(kind: str, tmp_path: Path) -> None:
    mixture = digits_mixture()
    run(mixture, tmp_path)
    path = next(path for path in sorted((tmp_path / "columns").rglob(f"*{kind}")))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StoreError, match="T0504") as caught:
        open_dataset(mixture, Store.open(tmp_path))
    (problem,) = caught.value.problems
    assert str(path) in problem.message
    assert "build again" in problem.help
    # What the help says to do is done, and only that partition is built again.
    path.with_name(path.name.partition(".")[0] + ".receipt").unlink(missing_ok=True)
    for receipt in path.parent.parent.glob("*.receipt") if kind.startswith("c.") else ():
        receipt.unlink()
    assert run(mixture, tmp_path).partitions == 1
    open_dataset(mixture, Store.open(tmp_path))


def test_a_build_over_a_damaged_file_says_so_and_does_not_call_it_cached(tmp_path: Path) -> None:
    run(digits_mixture(), tmp_path)
    path = next((tmp_path / "columns").rglob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StoreError, match="T0504"):
        run(digits_mixture(), tmp_path)


def test_rows_that_are_bad_are_left_out_and_all_others_are_there(tmp_path: Path) -> None:
    mixture = spoiled()
    run(mixture, tmp_path)
    dataset = open_dataset(mixture, Store.open(tmp_path))
    rows = [dataset.rows("digits", split) for split in ("train", "valid", "test")]
    usable = sorted(row for part in rows for row in part.usable)
    assert usable == [row for row in range(NUM_ROWS) if row not in (3, 41)]
    assert sum(len(part.expected) for part in rows) == NUM_ROWS


def test_a_missing_key_is_told_and_puts_the_row_in_no_split(tmp_path: Path) -> None:
    rows = digit_rows()
    rows[5]["id"] = None
    mixture = mix(digits_task(Source("digits", rows)))
    run(mixture, tmp_path)
    (entry,) = read_ledger(Store.open(tmp_path)).to_pylist()
    assert (entry["offset"], entry["code"], entry["column"]) == (5, "T0302", "id")
    dataset = open_dataset(mixture, Store.open(tmp_path))
    assert all(5 not in dataset.rows("digits", s).expected for s in ("train", "valid", "test"))
