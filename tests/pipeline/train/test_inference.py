"""A model answers anywhere, each row as if it were alone, and says what it cannot answer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import PlanError, RowError, SourceError, TaskloomError
from taskloom.pipeline import Mixture, Model, Prediction, Run, Task, build, train

from .stores import CONFIG, MODEL, make_tasks, read_digits, spell_numbers, start_python

DIGITS = [{"image": row["image"]} for row in read_digits()]
NUMBERS = [{"number": row["number"]} for row in spell_numbers()]

_ANSWER = """
import json, os, sys
from taskloom.pipeline import Model
assert os.listdir(".") == []
path, task, rows = sys.argv[1:]
answers = Model.load(path).infer(task, json.loads(rows))
assert "dask" not in sys.modules and "zarr" not in sys.modules
print(json.dumps([[answer.text, answer.log_prob] for answer in answers]))
"""


@pytest.fixture(scope="module")
def model(run: Run) -> Model:
    """The model of the run, read from its directory."""
    return Model.load(run.path)


def as_alone(predictions: list[Prediction]) -> list[tuple[str | None, Any]]:
    return [(p.text, pytest.approx(p.log_prob, abs=1e-4)) for p in predictions]


def problems_of(error: TaskloomError) -> dict[str, str]:
    return {problem.row: problem.code for problem in error.problems}


def test_a_model_works_in_an_empty_directory_without_store_and_source(tmp_path: Path) -> None:
    source, store, out = (tmp_path / name for name in ("rows.parquet", "store", "out"))
    pq.write_table(pa.Table.from_pylist(spell_numbers()), source)
    mixture = Mixture(
        [Task("spell", "write [TEXT:number] in words -> [TEXT:words]", source=str(source))],
        bpe_size=300,
    )
    build(mixture, store, progress=False)
    run = train(mixture, store, out=out, model=MODEL, config=CONFIG, steps=5, progress=False)
    expected = run.model.infer("spell", NUMBERS[:9])
    source.unlink()
    shutil.rmtree(store)
    (tmp_path / "empty").mkdir()
    process = start_python(
        _ANSWER, str(out), "spell", json.dumps(NUMBERS[:9]), folder=tmp_path / "empty"
    )
    answers, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert [tuple(answer) for answer in json.loads(answers)] == as_alone(expected)


def test_a_run_answers_exactly_as_its_checkpoint_does(run: Run, model: Model) -> None:
    assert run.model.infer("digits", DIGITS[:40]) == model.infer("digits", DIGITS[:40])


@given(
    rows=st.lists(st.integers(0, len(NUMBERS) - 1), min_size=1, max_size=40),
    long=st.integers(0, 300),
)
@settings(max_examples=12)
def test_a_row_alone_is_answered_as_in_any_batch(rows: list[int], long: int, model: Model) -> None:
    model = replace(model, max_length=6)
    asked = [NUMBERS[row] for row in rows]
    together = model.infer("spell", [*asked, {"number": "9 " * long}])
    for row, prediction in zip(asked[:4], together, strict=False):
        assert as_alone([prediction]) == [(p.text, p.log_prob) for p in model.infer("spell", [row])]


def test_the_order_of_rows_changes_no_answer(model: Model) -> None:
    order = np.random.default_rng(seed=0).permutation(len(DIGITS))
    straight = model.infer("digits", DIGITS)
    shuffled = model.infer("digits", [DIGITS[row] for row in order])
    assert [(p.text, p.log_prob) for p in shuffled] == as_alone([straight[row] for row in order])


def test_more_rows_than_are_computed_at_a_time_are_answered_in_order(model: Model) -> None:
    first = model.infer("digits", DIGITS)
    rows = DIGITS * 5
    assert len(rows) > 1024
    bad = [*rows, {"image": b"none"}, DIGITS[0]]
    answers = model.infer("digits", bad, on_error="return")
    assert [(p.text, p.log_prob) for p in answers[:-2]] == as_alone(first * 5)
    assert answers[-2].error is not None
    assert answers[-2].error.problems[0].row == str(len(rows))
    assert answers[-1].text == first[0].text


def test_a_closed_set_answers_nothing_else(model: Model) -> None:
    noise = np.random.default_rng(seed=0).integers(0, 256, (50, 9, 7, 3), dtype=np.uint8)
    answers = model.infer("digits", [{"image": image} for image in noise])
    assert {answer.text for answer in answers} <= {str(digit) for digit in range(10)}
    assert all(answer.log_prob < 0 for answer in answers)


def test_the_words_that_an_instruction_gives_are_no_part_of_the_answer(model: Model) -> None:
    answers = model.infer("spell", NUMBERS)
    assert not any((answer.text or "").startswith("it is") for answer in answers)


def test_a_task_may_be_given_by_name_or_as_it_is_or_as_its_instruction(model: Model) -> None:
    _, spell = make_tasks(has_rows=False)
    by_name = model.infer("spell", NUMBERS[:5])
    assert model.infer(spell, NUMBERS[:5]) == by_name
    assert model.infer(str(spell.instruction), NUMBERS[:5]) == by_name


def test_an_instruction_the_model_has_never_seen_is_followed(model: Model) -> None:
    rows = [{"image": row["image"], "hint": "eight"} for row in DIGITS[:3]]
    answers = model.infer("[IMAGE:image] [TEXT:hint] read it -> [TEXT:answer]", rows)
    assert [type(answer.text) for answer in answers] == [str] * 3


def test_a_task_of_the_same_name_keeps_its_closed_set_when_it_is_asked_otherwise(
    model: Model,
) -> None:
    asked = Task("digits", "which digit is on [IMAGE:image] ? -> [TEXT:label,closed_set]")
    answers = model.infer(asked, DIGITS[:20])
    assert {answer.text for answer in answers} <= {str(digit) for digit in range(10)}


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("[TEXT:label] or [TEXT:other,closed_set]", "[IMAGE:image] -> {}"),
        ("([TEXT:other,closed_set] ,)*", "{}"),
    ],
    ids=["slot", "group"],
)
def test_a_closed_set_that_was_never_learned_is_refused_with_task_slot_and_instruction(
    model: Model, target: str, shown: str
) -> None:
    with pytest.raises(PlanError, match=r"T0235.*no closed set for this instruction") as caught:
        model.infer(Task("digits", f"[IMAGE:image] -> {target}"), DIGITS[:1])
    (problem,) = caught.value.problems
    assert problem.address == "digits.other"
    (site,) = problem.sites
    assert site.label == "digits:1"
    assert site.text[site.span.start : site.span.stop] == shown.format(target)


def test_images_of_another_size_than_were_learned_are_refused(model: Model) -> None:
    with pytest.raises(PlanError, match=r"not trained to read this: adapter\.image_patch_32_8"):
        model.infer("[IMAGE:image,size=32] -> [TEXT:label]", DIGITS[:1])


def test_a_wrong_instruction_shows_where_it_is_wrong(model: Model) -> None:
    with pytest.raises(PlanError) as caught:
        model.infer("[IMGE:image] what? -> [TEXT:label]", DIGITS[:1])
    assert "[IMGE:image] what? -> [TEXT:label]\n   |  ^^^^" in str(caught.value)


def test_a_name_that_is_no_task_suggests_the_nearest(model: Model) -> None:
    with pytest.raises(PlanError, match=r"no task is named \"digit\"\n   = did you mean digits"):
        model.infer("digit", DIGITS[:1])


def test_no_rows_give_no_answers(model: Model) -> None:
    assert model.infer("digits", []) == []


def test_a_source_side_without_slots_is_answered_for_every_row(model: Model) -> None:
    for instruction in ("say a number -> [TEXT:a]", "-> it is [TEXT:a]", "-> [TEXT:a]"):
        answers = model.infer(instruction, [{}, {"other": 1}, {}])
        assert len(answers) == 3
        assert [(p.text, p.log_prob) for p in answers] == as_alone([answers[0]] * 3)


def test_columns_that_are_not_read_may_hold_anything(model: Model) -> None:
    rows = [row | {"label": 3, "more": object()} for row in DIGITS[:2]]
    rows[1]["label"] = "three"
    assert model.infer("digits", rows) == model.infer("digits", DIGITS[:2])


def test_all_rows_that_cannot_be_answered_are_named_in_one_error(model: Model) -> None:
    rows = [DIGITS[0], {"image": b"not an image"}, DIGITS[1], {"image": None}, {}]
    with pytest.raises(RowError) as caught:
        model.infer("digits", rows)
    assert problems_of(caught.value) == {"1": "T0301", "3": "T0302", "4": "T0302"}
    text = str(caught.value)
    assert (
        "node digits.image/decode    row 1    column image (12 bytes, starts b'not an i')" in text
    )
    assert "[IMAGE:image] what does the image describe?" in text


def test_rows_that_cannot_be_answered_may_come_back_beside_the_others(model: Model) -> None:
    rows = [DIGITS[0], {"image": b"not an image"}, DIGITS[1]]
    good, bad, other = model.infer("digits", rows, on_error="return")
    assert [good, other] == model.infer("digits", DIGITS[:2])
    assert bad.text is None
    assert isinstance(bad.error, RowError)
    assert problems_of(bad.error) == {"1": "T0301"}


def test_a_row_longer_than_the_model_reads_is_refused_and_not_cut(model: Model) -> None:
    rows = [NUMBERS[1], {"number": "7 " * 3000}, NUMBERS[2]]
    answers = model.infer("spell", rows, on_error="return")
    assert [answer.error is None for answer in answers] == [True, False, True]
    with pytest.raises(RowError, match="longer than the 2,048 tokens") as caught:
        model.infer("spell", rows)
    assert problems_of(caught.value) == {"1": "T0312"}


@pytest.mark.parametrize("rows", [{"image": b""}, ["image"], [None]])
def test_what_are_no_rows_is_told_as_such(model: Model, rows: Any) -> None:
    with pytest.raises(SourceError, match=r"T0408.*row 0 of .* is a \w+, not a mapping"):
        model.infer("digits", rows)


def test_a_missing_column_suggests_the_nearest(model: Model) -> None:
    with pytest.raises(SourceError, match=r"no column \"image\"\n.*\n   = did you mean Images"):
        model.infer("digits", [{"Images": 1, "label": "3"}])


def test_rows_that_are_no_mappings_are_refused(model: Model) -> None:
    rows: Any = [DIGITS[0], [1, 2]]
    with pytest.raises(SourceError, match='row 1 of "rows" is a list, not a mapping'):
        model.infer("digits", rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own doings
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_a_compiled_run_answers_rows_of_any_length_as_its_checkpoint_does(
    store_dir: Path, mixture: Mixture, tmp_path: Path
) -> None:
    run = train(
        mixture,
        store_dir,
        out=tmp_path,
        model=MODEL,
        config=replace(CONFIG, compile="on"),
        steps=3,
        progress=False,
    )
    assert "on cpu, compiled" in run.header
    loaded = Model.load(tmp_path)
    for length in (1, 90, 200, 400, 800):
        row = {"number": "7 " * length}
        (answer,) = loaded.infer("spell", [row])
        # A table that is laid out for scoring adds up in another order.
        assert [(answer.text, answer.log_prob)] == as_alone(run.model.infer("spell", [row]))
