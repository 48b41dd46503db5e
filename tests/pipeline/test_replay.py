"""A bad row is tried again from the ledger alone, and the outcome is compared with what the ledger says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from taskloom.graph.errors import OpError, StoreError
from taskloom.ops.host.image import DecodeImages
from taskloom.pipeline import Source, Task, open_plan
from taskloom.pipeline.builder.bad_rows import group_bad_rows
from taskloom.pipeline.builder.capsule import Capsule
from taskloom.pipeline.builder.replaying import Outcome, Replay, replay, replay_row
from taskloom.pipeline.viewer.pick import pick_row
from taskloom.pipeline.viewer.trace import trace_row
from taskloom.storage.ledger import find_bad_rows, read_bad_rows
from taskloom.storage.store import Store

from .rows import DIGITS, digit_rows, digits_task, mix, run, spoiled

HOSTILE = "\x1b[31mred\x1b[2J</script><script>alert(1)</script>"


def only(store: Path, offset: int) -> Replay:
    """Replay the row at ``offset``, which one node refused."""
    (bad,) = read_bad_rows(Store.open(store), offset=offset)
    (found,) = replay_row(store, bad.row)
    return found


@pytest.fixture(scope="module")
def spoiled_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store two of whose rows are no images; tests leave it as it is."""
    path = tmp_path_factory.mktemp("spoiled") / "store"
    run(spoiled(), path)
    return path


@pytest.fixture(scope="module")
def closed_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store one of whose held-out labels is not in the closed set."""
    train, test = digit_rows(20), digit_rows(5, 20)
    test[2]["label"] = HOSTILE
    path = tmp_path_factory.mktemp("closed") / "store"
    run(mix(Task("digits", DIGITS, source=Source("digits", {"train": train, "test": test}))), path)
    return path


def test_a_row_that_nothing_has_changed_for_fails_the_same_way(spoiled_dir: Path) -> None:
    found = only(spoiled_dir, 3)
    assert found.outcome is Outcome.SAME
    assert found.changed == ()
    assert found.problem == found.capsule.problem
    assert str(found) == f"{found.capsule.problem}\nfails the same way"
    assert "   | ^^^^^^^^^^^^^" in str(found)


def test_a_build_prints_the_command_that_tries_its_bad_row_again(tmp_path: Path) -> None:
    report = run(spoiled(), tmp_path)
    command = report.problems[0].help.splitlines()[-1]
    word, taskloom, verb, store, identity = command.split(" ")
    assert (word, taskloom, verb, store) == ("replay:", "taskloom", "replay", str(tmp_path))
    assert [each.outcome for each in replay_row(store, identity)] == [Outcome.SAME]


@pytest.mark.slow
def test_too_many_bad_rows_print_it_as_well(tmp_path: Path) -> None:
    with pytest.raises(OpError, match=f"= replay: taskloom replay {tmp_path} "):
        run(spoiled(), tmp_path, max_errors=0)


def test_a_row_whose_file_came_back_works_now_and_how_to_rebuild_it_is_said(tmp_path: Path) -> None:
    rows = digit_rows(20)
    picture = tmp_path / "late.png"
    rows[4]["image"] = str(picture)
    for row in rows[:4] + rows[5:]:
        (tmp_path / f"{row['id']}.png").write_bytes(row["image"])
        row["image"] = str(tmp_path / f"{row['id']}.png")
    mixture, store = mix(digits_task(Source("digits", rows))), tmp_path / "store"
    assert run(mixture, store).rejects == 1
    picture.write_bytes(b"GIF89a but no more")
    other = only(store, 4)
    assert other.outcome is Outcome.OTHER
    assert other.problem is not None
    assert other.problem.message != other.capsule.problem.message
    assert f"fails otherwise\n{other.problem}" in str(other)
    picture.write_bytes(digit_rows(1)[0]["image"])
    works = only(store, 4)
    assert (works.outcome, works.problem) == (Outcome.WORKS, None)
    assert works.value.as_py()["shape"] == [8, 8, 3]
    *_, remove, again = works.help
    assert again == "build again: only these partitions are rebuilt"
    for path in remove.removeprefix("rm ").split(" "):
        Path(path).unlink()
    report = run(mixture, store)
    assert (report.partitions, report.rejects) == (1, 0)
    assert not read_bad_rows(Store.open(store))


def test_an_op_of_another_version_is_told_and_needs_no_file_removed(
    spoiled_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DecodeImages, "traits", replace(DecodeImages.traits, version=2))
    found = only(spoiled_dir, 3)
    assert found.outcome is Outcome.SAME
    assert found.changed == ("version of decode_images was 1, is 2",)
    monkeypatch.setattr(DecodeImages, "__call__", lambda _, values: values)
    assert only(spoiled_dir, 3).help[-1] == "build again: its columns are computed anew"


def test_other_libraries_than_the_row_was_refused_with_are_told(spoiled_dir: Path) -> None:
    (bad,) = read_bad_rows(Store.open(spoiled_dir), offset=3)
    capsule = Capsule.of(Store.open(spoiled_dir), bad)
    assert {"pillow", "numpy", "pyarrow"} <= capsule.versions.keys()
    older = replace(capsule, versions={**capsule.versions, "pillow": "0.9"})
    assert replay(older).changed[0].startswith("pillow was 0.9, is ")


def test_a_store_whose_ledger_has_no_graph_is_replayed_from_its_tasks(tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(spoiled(), store)
    for path in store.glob("ledger/*/*/*.arrow"):
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, table.schema.remove_metadata()) as writer,
        ):
            writer.write_table(table.replace_schema_metadata(None))
    assert [bad.graph for bad in read_bad_rows(Store.open(store))] == ["", ""]
    assert only(store, 3).outcome is Outcome.SAME
    shutil.rmtree(store / "tasks")
    with pytest.raises(StoreError, match="T0515"):
        only(store, 3)


@pytest.mark.slow
def test_the_ledger_outlives_the_tasks_that_wrote_it(tmp_path: Path) -> None:
    run(spoiled(), tmp_path)
    shutil.rmtree(tmp_path / "tasks")
    assert only(tmp_path, 3).outcome is Outcome.SAME


def test_a_saved_row_needs_no_store_not_even_for_what_was_fitted(
    closed_dir: Path, tmp_path: Path
) -> None:
    (bad,) = read_bad_rows(Store.open(closed_dir))
    Capsule.of(Store.open(closed_dir), bad).save(tmp_path / "row.arrow")
    capsule = Capsule.load(tmp_path / "row.arrow")
    assert capsule.receipts == ()
    assert capsule.batch.to_pylist() == [{"label": HOSTILE}]
    found = replay(capsule)
    assert (found.outcome, found.capsule.problem.code) == (Outcome.SAME, "T0304")
    with pa.OSFile(str(tmp_path / "row.arrow")) as file, pa.ipc.open_stream(file) as reader:
        assert reader.read_all().to_pylist() == [{"label": HOSTILE}]


@pytest.mark.parametrize("content", [b"", b"no capsule", b"PAR1"], ids=repr)
def test_a_file_that_is_no_capsule_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "row.arrow").write_bytes(content)
    with pytest.raises(StoreError, match="T0515"):
        Capsule.load(tmp_path / "row.arrow")
    with pytest.raises(StoreError, match="T0515"):
        Capsule.load(tmp_path / "nowhere.arrow")


@pytest.mark.slow
def test_a_row_that_two_nodes_refused_is_tried_at_both_or_at_one(tmp_path: Path) -> None:
    rows = digit_rows()
    rows[3]["label"] = None
    run(spoiled(rows), tmp_path)
    both = read_bad_rows(Store.open(tmp_path), offset=3)
    found = replay_row(tmp_path, both[0].row)
    assert sorted(each.capsule.problem.code for each in found) == ["T0301", "T0302"]
    assert {each.outcome for each in found} == {Outcome.SAME}
    for bad in both:
        (one,) = replay_row(tmp_path, f"{bad.row}:{bad.entry.node[:6]}")
        assert one.capsule.problem.code == bad.entry.problem.code


def test_bad_rows_are_grouped_by_what_is_wrong_and_their_ids_can_be_looked_up(
    tmp_path: Path,
) -> None:
    rows = digit_rows()
    rows[7]["label"] = None
    run(spoiled(rows), tmp_path)
    store = Store.open(tmp_path)
    images, labels = group_bad_rows(store)
    assert (images.code, images.address) == ("T0301", "digits.image/decode")
    assert images.messages == (("cannot identify image file", 2),)
    assert (labels.code, labels.address, len(labels.ids)) == ("T0302", "digits.label", 1)
    for group in (images, labels):
        for identity in group.ids:
            (bad,) = find_bad_rows(store, identity)
            assert bad.entry.problem.code == group.code
    assert group_bad_rows(store, keys=set()) == []
    assert str(images).startswith("T0301 at digits.image/decode: 2 rows of digits\n")


def test_a_bad_item_of_a_list_is_tried_again_with_its_row(tmp_path: Path) -> None:
    digits = digit_rows(12)
    rows = [
        {"pictures": [row["image"], digits[0]["image"]], "label": row["label"]} for row in digits
    ]
    rows[4]["pictures"][1] = b"notajpeg"
    instruction = "see ([IMAGE:pictures])* -> [TEXT:label]"
    mixture = mix(Task("many", instruction, source=Source("many", rows)))
    assert run(mixture, tmp_path).rejects == 1
    found = only(tmp_path, 4)
    assert (found.outcome, found.capsule.problem.code) == (Outcome.SAME, "T0301")
    assert "item 2" in found.capsule.problem.column
    assert found.capsule.batch.to_pylist()[0]["pictures"] == rows[4]["pictures"]
    store = Store.open(tmp_path)
    planned = open_plan(mixture, store)
    picked = pick_row(planned, mixture["many"], store, "4")
    steps = {s.node.address: s for s in trace_row(planned, "many", picked.table, row="4").steps}
    problem, shown = steps["many.pictures/decode"].problem, steps["many.pictures/resize"].preview
    assert problem is not None
    assert problem.code == "T0301"
    assert shown is not None
    assert shown["text"] == "2 pictures of 16 x 16 pixels, 1 without a value"
    assert steps["many/document"].note == "not run: many.pictures/decode has no value"
