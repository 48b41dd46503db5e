"""A build computes what is missing, nothing else, and the same bytes however it is run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from taskloom.graph.errors import PlanError
from taskloom.ops.host.bpe import Bpe
from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.pipeline.builder.dataset import open_dataset
from taskloom.storage.ledger import read_ledger
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from .rows import (
    BPE_SIZE,
    DIGITS,
    NUM_ROWS,
    Row,
    columns,
    digit_rows,
    digits_mixture,
    digits_task,
    mix,
    run,
    stamps,
    tree,
)


def test_a_build_stores_every_column_of_every_row(digits_dir: Path) -> None:
    store = Store.open(digits_dir)
    dataset = open_dataset(digits_mixture(), store)
    train, test = (dataset.rows("digits", split) for split in ("train", "test"))
    assert len(train.usable) + len(test.usable) == NUM_ROWS
    assert 0 < len(test.usable) < NUM_ROWS / 2
    assert verify(store).problems == ()
    assert read_ledger(store).num_rows == 0


def test_building_again_writes_nothing(tmp_path: Path) -> None:
    first = run(digits_mixture(), tmp_path)
    assert (first.partitions, first.cached, first.rows) == (3, 0, NUM_ROWS)
    before = stamps(tmp_path)
    again = run(digits_mixture(), tmp_path)
    assert (again.partitions, again.cached, again.rows) == (0, 3, 0)
    assert str(again) == "nothing to build: all 3 column partitions are cached"
    assert stamps(tmp_path) == before


def test_a_new_slot_builds_one_column(tmp_path: Path) -> None:
    source = Source("digits", digit_rows())
    run(mix(digits_task(source)), tmp_path)
    before = columns(tmp_path)
    with_note = DIGITS.replace("describe?", "describe? [TEXT:note]")
    report = run(mix(digits_task(source, with_note)), tmp_path)
    assert (report.partitions, report.cached) == (1, 3)
    assert before < columns(tmp_path)
    assert len(columns(tmp_path) - before) == 1


def test_an_edited_prompt_builds_nothing(tmp_path: Path) -> None:
    source = Source("digits", digit_rows())
    run(mix(digits_task(source)), tmp_path)
    before = columns(tmp_path)
    report = run(mix(digits_task(source, "see [IMAGE:image] -> [TEXT:label,closed_set]")), tmp_path)
    assert (report.partitions, report.cached) == (0, 3)
    assert columns(tmp_path) == before


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_number_of_workers_changes_no_byte(
    workers: int, parts: Mixture, parts_tree: dict[str, bytes], tmp_path: Path
) -> None:
    run(parts, tmp_path, workers=workers)
    assert tree(tmp_path) == parts_tree


def test_a_dry_run_says_what_is_missing_and_what_it_takes_and_builds_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixture = digits_mixture()
    report = build(mixture, tmp_path, dry_run=True)
    assert report.is_dry
    assert (report.partitions, report.cached) == (3, 0)
    assert report.bytes == NUM_ROWS * 16 * 16 * 3
    assert report.fitted == ("bpe-main", "closed-set-digits.label")
    told = (
        "3 column partitions to build, 0 cached; dense columns take 46.1 kB, others about 308 B, "
        "not counting what follows the fit, after fitting bpe-main, closed-set-digits.label"
    )
    assert str(report) == told
    assert capfd.readouterr().err.splitlines()[-1] == told
    assert not (tmp_path / "columns").exists()
    run(mixture, tmp_path)
    assert str(run(mixture, tmp_path, dry_run=True)) == "0 column partitions to build, 3 cached"


def test_vocabulary_files_are_used_as_they_are(tmp_path: Path) -> None:
    source = Source("digits", digit_rows())
    run(mix(digits_task(source), bpe_size=280), tmp_path / "fitted")
    fitted = Store.open(tmp_path / "fitted")
    content = fitted.artifact_content(fitted.artifacts()["bpe-main"].digest)
    tokenizer = Tokenizer.from_str(content.decode())
    files = tuple(tokenizer.model.save(str(tmp_path)))
    mixture = mix(digits_task(source), bpe_files=files)
    assert mixture.bpe_size == tokenizer.get_vocab_size() <= 280
    report = run(mixture, tmp_path / "given")
    assert report.fitted == ("closed-set-digits.label",)
    given = Store.open(tmp_path / "given")
    pinned = given.artifacts()["bpe-main"]
    assert Bpe(given.artifact_content(pinned.digest)).size == tokenizer.get_vocab_size()
    before = stamps(tmp_path / "given")
    run(mixture, tmp_path / "given")
    assert stamps(tmp_path / "given") == before


def test_records_tell_what_was_built(digits_dir: Path) -> None:
    store = Store.open(digits_dir)
    task = store.task("digits")
    assert task["instruction"] == DIGITS
    assert set(task["columns"].values()) == columns(digits_dir)
    (path,) = (digits_dir / "builds").glob("*.json")
    record = json.loads(path.read_text())
    assert record["tasks"] == ["digits"]
    assert (record["partitions"], record["rows"], record["rejects"]) == (3, NUM_ROWS, 0)


SCRIPT = """
import sys
from pathlib import Path

with Path(sys.argv[1]).open("a") as file:
    file.write("imported\\n")

from real_data import digits
from taskloom.pipeline import Mixture, Task, build, evaluate, train

rows = digits()[:200]
image = rows[0]["image"]
instruction = "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"
task = Task("digits", instruction, source=rows, holdout=0.1, key="id")
mixture = Mixture([task])
build(mixture, "store/")
run = train(mixture, "store/", out="runs/digits", steps=3)
print(evaluate(run.model, mixture, "store/"))
print(run.model.infer(task, [{"image": image}])[0].text)
"""


@pytest.mark.slow
def test_ten_lines_without_a_main_guard_run_as_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Path(__file__).parents[2] / "examples"
    monkeypatch.setenv("PYTHONPATH", str(examples))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", "imports"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] in set("0123456789")
    assert (tmp_path / "imports").read_text() == "imported\n"
    assert "3 column partitions built" in done.stderr


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for settings in (
        {"workers": 0},
        {"max_errors": -1},
        {"max_errors": float("nan")},
        {"on_error": "ignore"},
        {"timeout_s": 0},
    ):
        with pytest.raises(PlanError, match="T0227"):
            run(digits_mixture(), tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


def test_a_wrong_instruction_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    def rows() -> Iterator[Row]:
        raise AssertionError("read")
        yield {}

    with pytest.raises(PlanError, match="T0231"):
        run(Task("t", "[AUDIO:a] -> [TEXT:b]", source=rows), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_vocabulary_is_of_the_size_that_was_asked_for(digits_dir: Path) -> None:
    store = Store.open(digits_dir)
    bpe = Bpe(store.artifact_content(store.artifacts()["bpe-main"].digest))
    assert 256 < bpe.size <= BPE_SIZE
    assert bpe.encode(pa.array(["what does the image describe?"])).to_pylist()
