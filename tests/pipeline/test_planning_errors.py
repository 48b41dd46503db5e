"""What cannot be planned is refused with its place, and all of it at once."""

from __future__ import annotations

from typing import Any

import pytest

from taskloom.graph.errors import InstructionError, PlanError, TaskloomError
from taskloom.pipeline import Mixture, Task, plan
from taskloom.pipeline.planner.planning import Mode

DIGITS = "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"
VQA = "[IMAGE:image] [TEXT:question] -> [TEXT:answer,closed_set]"


def make_tasks(**instructions: str) -> list[Task]:
    """Return a task for each instruction, on a source of its own."""
    return [
        Task(name, text, source=[], holdout=0.1, key="id") for name, text in instructions.items()
    ]


def test_an_unknown_column_is_underlined_and_the_nearest_named() -> None:
    columns = {"vqa": {"id": "int64", "image": "binary", "query": "string", "answer": "string"}}
    with pytest.raises(PlanError) as caught:
        plan(make_tasks(vqa=VQA.replace("question", "quary")), columns=columns)
    assert str(caught.value) == (
        'error[T0212]: source "vqa" has no column "quary"\n'
        "  node vqa    column quary\n"
        "  --> vqa:1\n"
        "   | [IMAGE:image] [TEXT:quary] -> [TEXT:answer,closed_set]\n"
        "   |               ^^^^^^^^^^^^\n"
        "   = did you mean query?"
    )


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"holdout": 0.1, "key": "idd"}, id="key"),
        pytest.param({"where": "labl == 'a'"}, id="filter"),
    ],
)
def test_an_unknown_key_or_filter_column_is_refused_too(settings: dict[str, Any]) -> None:
    columns = {"digits": {"id": "int64", "image": "binary", "label": "string"}}
    with pytest.raises(PlanError, match=r"did you mean (id|label)"):
        plan(Task("digits", DIGITS, source=[], **settings), columns=columns)


def test_the_problems_of_all_tasks_are_told_together() -> None:
    columns = {"a": {"img": "binary"}, "b": {"img": "binary"}}
    tasks = make_tasks(
        a="[IMAGE:image] -> [TEXT:label]", b="[IMAGE:img] -> [TEXT:cap]", c="[AUDIO:x] -> [TEXT:y]"
    )
    with pytest.raises(PlanError) as caught:
        plan(tasks, columns=columns)
    told = [(problem.code, problem.column) for problem in caught.value.problems]
    assert told == [
        ("T0212", "image"),
        ("T0212", "label"),
        ("T0212", "id"),
        ("T0212", "cap"),
        ("T0212", "id"),
        ("T0231", ""),
    ]


def test_malformed_instructions_and_filters_are_told_together_with_their_tasks() -> None:
    tasks = [
        Task("a", "[IMGE:img] -> [TEXT:cap]"),
        Task("b", "[IMAGE:img] -> [TEXT:cap]", where="cap is long"),
    ]
    with pytest.raises(PlanError) as caught:
        plan(tasks)
    assert [problem.code for problem in caught.value.problems] == ["T0103", "T0210"]
    assert "--> a:1" in str(caught.value)
    assert "node b/where" in str(caught.value)


@pytest.mark.parametrize(
    ("instruction", "code", "underlined"),
    [
        pytest.param(
            "[IMAGE:a] -> ([TEXT:b] ; [TEXT:c])*", "T0253", "[TEXT:c]", id="no end in group"
        ),
        pytest.param(
            "[IMAGE:a] -> ([TEXT:b];)* [TEXT:c]", "T0253", "([TEXT:b];)*", id="after a group"
        ),
        pytest.param("[IMAGE:a] -> [TEXT:b] [TEXT:c]", "T0253", "[TEXT:b]", id="no end of a text"),
        pytest.param(
            "[ [IMAGE:a] | [TEXT:b] ] -> [TEXT:c]", "T0251", "[ [IMAGE:a] | [TEXT:b] ]", id="pair"
        ),
        pytest.param(
            "-> [ [IMAGE:a] | [TEXT:b] ]", "T0251", "[ [IMAGE:a] | [TEXT:b] ]", id="target"
        ),
        pytest.param("[VIDEO:a] -> [TEXT:b]", "T0231", "[VIDEO:a]", id="no recipe"),
        pytest.param("[TEXT:a] -> [IMAGE:b]", "T0231", "[IMAGE:b]", id="no recipe for a target"),
        pytest.param("[TEXT:a,closed_set] -> [TEXT:b]", "T0215", "closed_set", id="side"),
        pytest.param(
            "[IMAGE:a,mask_ratio=.5] -> [TEXT:b]", "T0124", "mask_ratio=.5", id="attribute"
        ),
        pytest.param(
            "[IMAGE:a,adapter=image_vit] -> [TEXT:b]", "T0124", "adapter=image_vit", id="choice"
        ),
        pytest.param("[IMAGE:a,size=30] -> [TEXT:b]", "T0216", "[IMAGE:a,size=30]", id="patches"),
    ],
)
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_what_cannot_be_planned_is_refused_with_its_place(
    instruction: str, code: str, underlined: str, mode: Mode
) -> None:
    with pytest.raises(TaskloomError) as caught:
        plan(make_tasks(t=instruction), mode)
    (problem,) = caught.value.problems
    (site,) = problem.sites
    assert problem.code == code
    assert site.text[site.span.start : site.span.stop] == underlined


@pytest.mark.parametrize("instruction", ["[IMAGE:a] what is it? ->", "a -> b"])
def test_a_task_that_learns_nothing_is_refused_for_training_alone(instruction: str) -> None:
    with pytest.raises(TaskloomError, match="T0250"):
        plan(make_tasks(t=instruction))
    assert "memory" in plan(make_tasks(t=instruction), "infer").graph.outputs


@pytest.mark.parametrize(
    ("values", "code"),
    [
        pytest.param({"size": "big"}, "T0121", id="type"),
        pytest.param({"size": True}, "T0121", id="flag"),
        pytest.param({"size": 0}, "T0122", id="range"),
        pytest.param({"sise": 32}, "T0120", id="name"),
    ],
)
def test_defaults_of_slots_are_checked_as_slots_are(values: dict[str, int], code: str) -> None:
    with pytest.raises(TaskloomError, match=code):
        plan(Mixture(make_tasks(digits=DIGITS), slots={"IMAGE": values}))


def test_a_default_that_belongs_to_targets_is_no_matter_of_sources() -> None:
    tasks = make_tasks(copy="[TEXT:text] -> [TEXT:label]")
    with_closed_set = plan(Mixture(tasks, slots={"TEXT": {"closed_set": True}}))
    assert "closed-set-copy.label" in with_closed_set.fits
    assert "closed-set-copy.label" not in plan(tasks).fits


def test_what_is_wrong_with_any_template_is_told_with_its_number() -> None:
    task = Task("digits", [DIGITS, "[IMAGE:image,size=30] -> [TEXT:label]"], source=[])
    with pytest.raises(PlanError) as caught:
        plan(task)
    (problem,) = caught.value.problems
    assert (problem.code, [site.label for site in problem.sites]) == ("T0216", ["digits:2"])


def test_errors_of_an_instruction_keep_their_kind() -> None:
    with pytest.raises(InstructionError):
        Task("a", "no arrow").parse()
