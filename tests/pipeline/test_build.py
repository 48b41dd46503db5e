"""A build computes what is missing, nothing else, and the same bytes however it is run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tokenizers import Tokenizer

from taskloom.graph.errors import PlanError
from taskloom.ops.host.bpe import Bpe
from taskloom.ops.host.closed_set import ClosedSet
from taskloom.pipeline import BuildReport, Mixture, Source, Task, build
from taskloom.pipeline.dataset import open_dataset
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
    stamps,
    tree,
    write_csv,
    write_jsonl,
    write_parquet,
)

WORDS = "say [TEXT:note] -> [TEXT:label,closed_set]"


def run(mixture: Mixture | Task, store: Path, **settings: Any) -> BuildReport:
    """Build without a word."""
    return build(mixture, store, **{"progress": False} | settings)


def test_a_build_stores_every_column_of_every_row(digits_dir: Path) -> None:
    store = Store.open(digits_dir)
    dataset = open_dataset(digits_mixture(), store)
    train, test = (dataset.rows("digits", split) for split in ("train", "test"))
    assert len(train.usable) + len(test.usable) == NUM_ROWS
    assert 0 < len(test.usable) < NUM_ROWS / 2
    assert verify(store).problems == ()
    assert read_ledger(store).num_rows == 0


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
    ids: Any = dataset.target("digits").take(np.arange(NUM_ROWS)).to_pylist()
    assert [bpe.decode(row) for row in ids] == [row["label"] for row in rows]


def test_building_again_writes_nothing(tmp_path: Path) -> None:
    first = run(digits_mixture(), tmp_path)
    assert (first.partitions, first.cached, first.rows) == (3, 0, NUM_ROWS)
    before = stamps(tmp_path)
    again = run(digits_mixture(), tmp_path)
    assert (again.partitions, again.cached, again.rows) == (0, 3, 0)
    assert str(again) == "nothing to build: all 3 column partitions are cached"
    assert stamps(tmp_path) == before


@pytest.mark.parametrize("by_split", [False, True], ids=["one source", "one per split"])
@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "rows", "function", "generator"])
def test_every_kind_of_source_gives_the_same_columns(
    kind: str, by_split: bool, tmp_path: Path
) -> None:
    def give(name: str, rows: list[Row]) -> Any:
        if kind in ("parquet", "csv", "jsonl"):
            write = {"parquet": write_parquet, "csv": write_csv, "jsonl": write_jsonl}[kind]
            return write(tmp_path / f"{name}.{kind}", rows)
        return {"rows": rows, "function": lambda: rows, "generator": iter(rows)}[kind]

    rows = [{"id": i, "note": f"note {i % 4}", "label": str(i % 3)} for i in range(20)]
    if by_split:
        source: Any = {"train": give("train", rows[:15]), "test": give("test", rows[15:])}
        task = Task("words", WORDS, source=Source("words", source))
    else:
        task = Task("words", WORDS, source=Source("words", give("all", rows)), holdout=0.3, key="id")
    mixture = mix(task)
    run(mixture, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    dataset = open_dataset(mixture, store)
    bpe = Bpe(store.artifact_content(store.artifacts()["bpe-main"].digest))
    ids: Any = dataset.target("words").take(np.arange(20)).to_pylist()
    assert [bpe.decode(row) for row in ids] == [row["label"] for row in rows]
    held_out = dataset.rows("words", "test").usable.tolist()
    if by_split:
        assert held_out == [15, 16, 17, 18, 19]
    assert sorted([*held_out, *dataset.rows("words", "train").usable.tolist()]) == list(range(20))


def test_arrays_and_pictures_of_a_program_are_stored_as_they_are(tmp_path: Path) -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    rows = [
        {"id": 0, "image": pixels, "label": "a"},
        {"id": 1, "image": Image.fromarray(pixels), "label": "a"},
    ]
    mixture = mix(
        Task("t", "[IMAGE:image,size=8] -> [TEXT:label]", source=rows), slots={"IMAGE": {"patch": 8}}
    )
    run(mixture, tmp_path)
    dataset = open_dataset(mixture, Store.open(tmp_path))
    (image,) = (
        v for v in dataset.plan.cut.stored if dataset.plan.graph.type_of(v).kind == "image"
    )
    stored = np.asarray(dataset.columns["t", image.column_id].gather(np.arange(2)))
    np.testing.assert_array_equal(stored, np.stack([pixels, pixels]))


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


def test_two_tasks_over_one_file_share_its_columns(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "digits.parquet", digit_rows())
    other = "[IMAGE:image] [TEXT:note] -> [TEXT:label]"
    mixture = mix(digits_task(path), digits_task(path, other, name="other"))
    report = run(mixture, tmp_path / "store")
    # One for image, note, label, label within its closed set, and split.
    assert (report.partitions, report.rows) == (5, NUM_ROWS)
    assert len(Store.open(tmp_path / "store").sources()) == 1


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """A mixture of images in three files, one of which holds a row that is no image, and of words."""
    folder = tmp_path_factory.mktemp("parts")
    rows = digit_rows()
    rows[25]["image"] = b"notajpeg"
    files = [write_parquet(folder / f"{i}.parquet", rows[20 * i : 20 * i + 20]) for i in range(3)]
    words = [{"id": i, "note": f"note {i}", "label": str(i % 3)} for i in range(30)]
    return mix(
        digits_task(Source("digits", [str(path) for path in files])),
        digits_task(Source("words", words), WORDS, name="words"),
    )


@pytest.fixture(scope="module")
def parts_tree(parts: Mixture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store of `parts`, built by one worker."""
    path = tmp_path_factory.mktemp("one worker")
    run(parts, path, workers=1)
    return tree(path)


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_no_byte(
    workers: int, parts: Mixture, parts_tree: dict[str, bytes], tmp_path: Path
) -> None:
    run(parts, tmp_path, workers=workers)
    assert tree(tmp_path) == parts_tree


@pytest.fixture(scope="module")
def make_client() -> Iterator[Callable[[], Any]]:
    """A client of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield lambda: client


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes_and_keeps_no_processes(
    make_client: Callable[[], Any],
    parts: Mixture,
    parts_tree: dict[str, bytes],
    tmp_path: Path,
) -> None:
    client = make_client()
    report = run(parts, tmp_path, client=client)
    assert tree(tmp_path) == parts_tree
    assert report.rejects == 1
    assert set(client.run(_count_children).values()) == {0}


def _count_children() -> int:
    import psutil  # noqa: PLC0415 - comes with distributed, and runs in its workers

    children = psutil.Process().children(recursive=True)
    return sum("taskloom.pipeline.worker" in child.cmdline() for child in children)


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
        "3 column partitions to build, 0 cached; dense columns take 46.1 kB, ids and texts come on top, "
        "after fitting bpe-main, closed-set-digits.label"
    )
    assert str(report) == told
    assert capfd.readouterr().err.splitlines()[-1] == told
    assert not (tmp_path / "columns").exists()
    run(mixture, tmp_path)
    assert str(run(mixture, tmp_path, dry_run=True)) == "0 column partitions to build, 3 cached"


def test_fitting_again_replaces_an_artifact_and_what_follows(tmp_path: Path) -> None:
    old, new = digit_rows(30), digit_rows(NUM_ROWS)
    for row in old:
        row["label"] = "one"
    run(mix(digits_task(Source("digits", old))), tmp_path)
    before = Store.open(tmp_path).artifacts()
    mixture = mix(digits_task(Source("digits", new)))
    run(mixture, tmp_path)
    assert Store.open(tmp_path).artifacts() == before
    report = run(mixture, tmp_path, refit=["closed-set-digits.label"])
    assert report.fitted == ("closed-set-digits.label",)
    assert report.partitions == 1
    assert report.rejects == 0
    after = Store.open(tmp_path).artifacts()
    assert after["bpe-main"] == before["bpe-main"]
    assert after["closed-set-digits.label"] != before["closed-set-digits.label"]


def test_fitting_again_what_nobody_fits_is_refused(digits_dir: Path) -> None:
    with pytest.raises(PlanError, match="did you mean bpe-main"):
        run(digits_mixture(), digits_dir, refit=["bpe-mian"])


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
    with pytest.raises(PlanError, match="fit no artifact"):
        run(mixture, tmp_path / "given", refit=["bpe-main"])


def test_a_vocabulary_smaller_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    task = digits_task(Source("digits", digit_rows()))
    run(mix(task, bpe_size=280), tmp_path)
    with pytest.raises(PlanError, match=r"(?s)T0228.*refit") as caught:
        run(mix(task, bpe_size=260), tmp_path)
    assert "bpe-main has" in str(caught.value)
    assert run(mix(task, bpe_size=260), tmp_path, refit=["bpe-main"]).fitted == ("bpe-main",)


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
    rows = [{"id": i, "note": "n", "label": "ab"[i % 2], "lang": ["de", "en", None][i % 3]} for i in range(12)]
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
task = Task("digits", "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]", source=rows, holdout=0.1, key="id")
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
