"""How a model searches for answers is asked for by the settings of a search, and each does what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from taskloom.graph.errors import PlanError, RowError
from taskloom.pipeline import Model, Run, Search, Task

from .stores import read_digits, spell_numbers

DIGITS = [{"image": row["image"]} for row in read_digits()]
NUMBERS = [{"number": row["number"]} for row in spell_numbers()]
BEAMS = Search(beams=4, n_best=4, max_length=8)
SEARCHES = [
    pytest.param(BEAMS, id="beams"),
    pytest.param(Search(sample=True, beams=2, n_best=2, seed=4, max_length=8), id="sample"),
]


@pytest.fixture(scope="module")
def model(run: Run) -> Model:
    """The model of the run, read from its directory."""
    return Model.load(run.path)


def as_pairs(prediction: Any) -> list[tuple[str | None, Any]]:
    every = (prediction, *prediction.others)
    return [(each.text, pytest.approx(each.log_prob, abs=1e-4)) for each in every]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_row_alone_is_answered_as_in_any_batch(model: Model, search: Search) -> None:
    together = model.infer("spell", NUMBERS[:20], search=search)
    for number in (0, 7, 19):
        (alone,) = model.infer("spell", [NUMBERS[number]], search=search)
        assert as_pairs(alone) == as_pairs(together[number])


def test_the_best_of_more_beams_are_told_in_order(model: Model) -> None:
    for row in model.infer("spell", NUMBERS[:5], search=BEAMS):
        log_probs = [row.log_prob, *(other.log_prob for other in row.others)]
        assert len(log_probs) == 4
        assert log_probs == sorted(log_probs, reverse=True)


def test_all_answers_of_a_closed_set_are_weighed_and_a_search_agrees(model: Model) -> None:
    weighed = model.weigh("digits", DIGITS[:20])
    found = model.infer("digits", DIGITS[:20], search=Search(beams=10, n_best=10))
    for row, other in zip(weighed, found, strict=True):
        every = [row, *row.others]
        assert sum(math.exp(each.log_prob) for each in every) == pytest.approx(1, abs=1e-4)
        assert {each.text for each in every} == {str(digit) for digit in range(10)}
        told = {each.text: each.log_prob for each in (other, *other.others)}
        assert told == pytest.approx({each.text: each.log_prob for each in every}, abs=1e-4)


def test_free_text_cannot_be_weighed(model: Model) -> None:
    with pytest.raises(PlanError, match="only the answers of a closed set"):
        model.weigh("spell", NUMBERS[:1])


@pytest.mark.parametrize("search", [Search(), BEAMS])
def test_answers_begin_with_the_prefix(model: Model, search: Search) -> None:
    search = replace(search, prefix="ninety", max_length=16)
    answers = model.infer("spell", NUMBERS[:5], search=search)
    assert all(answer.text is not None and answer.text.startswith("ninety") for answer in answers)


def test_a_prefix_that_a_closed_set_has_not_is_refused(model: Model) -> None:
    with pytest.raises(PlanError, match='cannot begin with "x"') as caught:
        model.infer("digits", DIGITS[:1], search=Search(prefix="x"))
    assert caught.value.problems[0].code == "T0247"
    with pytest.raises(PlanError, match="ids, and at most 2 are written"):
        model.infer("spell", NUMBERS[:1], search=Search(prefix="ninety nine", max_length=2))
    assert model.infer("digits", DIGITS[:1], search=Search(prefix="7"))[0].text == "7"


def test_a_limit_of_length_holds_for_this_search_alone(model: Model) -> None:
    long = model.infer("spell", NUMBERS[:3], search=Search(min_length=12, max_length=20))
    assert all(len(answer.text or "") >= 6 for answer in long)
    short = model.infer("spell", NUMBERS[:3], search=Search(max_length=1))
    assert [answer.text for answer in short] == [""] * 3


def test_room_that_no_answer_fits_is_refused_by_what_was_asked_for(model: Model) -> None:
    # What the instruction says before the slot takes no room.
    text = "[IMAGE:image] what does the image describe? -> it is [TEXT:label,closed_set]"
    task = Task("digits", text)
    with pytest.raises(PlanError, match=r"T0226.*max_length is 2, and a target needs 3 ids"):
        model.infer(task, DIGITS[:1], search=Search(max_length=2))
    assert model.infer(task, DIGITS[:1], search=Search(max_length=3))[0].text


@pytest.mark.parametrize(
    "search",
    [
        Search(min_length=5),
        Search(sample=True, seed=2, temperature=2.0),
        Search(prefix="four"),
    ],
)
def test_pieces_that_are_streamed_are_the_answer(model: Model, search: Search) -> None:
    for row in NUMBERS[:6]:
        pieces = list(model.stream("spell", row, search=search))
        (answer,) = model.infer("spell", [row], search=search)
        assert "".join(pieces) == answer.text
        assert len(pieces) > 1
        assert torch.is_grad_enabled()


def test_a_character_that_the_last_id_leaves_open_is_streamed(model: Model) -> None:
    # Plain text must follow the slot, so no end can be written where the room is over.
    task = "write [TEXT:number] -> [TEXT:word] and so on"
    num_open = 0
    for seed in range(12):
        search = Search(sample=True, seed=seed, temperature=50.0, max_length=6)
        (answer,) = model.infer(task, NUMBERS[:1], search=search)
        assert "".join(model.stream(task, NUMBERS[0], search=search)) == answer.text
        num_open += (answer.text or "").endswith("\ufffd")
    assert num_open


def test_a_text_that_is_to_be_longer_than_it_may_be_is_refused(model: Model) -> None:
    with pytest.raises(PlanError, match=r"T0244.*min_length is 64, and 64 ids are written"):
        model.infer("spell", NUMBERS[:1], search=Search(min_length=model.max_length))
    with pytest.raises(PlanError, match="T0244"):
        next(model.stream("spell", NUMBERS[0], search=Search(min_length=99)))
    # Where an answer ends in a closed set, nothing else may be written.
    assert model.infer("digits", DIGITS[:1], search=Search(min_length=99))[0].text


def test_what_has_no_beginning_before_its_end_is_not_streamed(model: Model) -> None:
    with pytest.raises(PlanError, match="4 beams is known at its end"):
        next(model.stream("spell", NUMBERS[0], search=BEAMS))
    with pytest.raises(RowError, match="longer than the 2,048 tokens"):
        next(model.stream("spell", {"number": "7 " * 3000}))
    with pytest.raises(RowError):
        next(model.stream("digits", {"image": b"none"}))


def test_weights_in_eight_bits_answer_nearly_the_same(run: Run, model: Model) -> None:
    small = Model.load(run.path, int8=True)
    exact = model.weigh("digits", DIGITS[:40])
    near = small.weigh("digits", DIGITS[:40])
    off = [abs(a.log_prob - b.log_prob) for a, b in zip(exact, near, strict=True)]
    assert 0 < max(off) < 0.3
    texts = [small.infer("spell", [row])[0].text for row in NUMBERS[:5]]
    assert all(isinstance(text, str) for text in texts)
    with pytest.raises(PlanError, match="are not compiled"):
        Model.load(run.path, int8=True, compiled=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_steps_that_are_compiled_answer_the_same(run: Run, model: Model) -> None:
    compiled = Model.load(run.path, compiled=True)
    for rows in (NUMBERS[:5], NUMBERS[5:10]):
        expected, found = (each.infer("spell", rows, search=BEAMS) for each in (model, compiled))
        assert [each.text for each in found] == [each.text for each in expected]
