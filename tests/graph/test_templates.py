"""The templates of a task are read together, agree on their columns, and are refused together."""

from __future__ import annotations

from typing import Any, cast

import pytest

from taskloom.graph.attribute import Attribute
from taskloom.graph.errors import InstructionError, Problem
from taskloom.graph.modality import Modality
from taskloom.graph.templates import parse_instructions

CAPTION = ["[IMAGE:img] what does the image describe? -> [TEXT:cap]", "[IMAGE:img] -> [TEXT:cap]"]

OWN = Modality.of("TEXT", [Attribute("adapter", str)])


def refuse(texts: Any) -> list[Problem]:
    with pytest.raises(InstructionError) as caught:
        parse_instructions(texts, label="caption")
    return list(caught.value.problems)


def underlined(problem: Problem) -> list[tuple[str, str]]:
    return [(site.label, site.text[site.span.start : site.span.stop]) for site in problem.sites]


def test_templates_are_called_by_the_name_of_their_task_and_their_number() -> None:
    first, second = parse_instructions(CAPTION, label="caption")
    assert (first.label, second.label) == ("caption:1", "caption:2")
    assert [str(first), str(second)] == CAPTION
    assert not first.warnings


def test_one_text_is_one_template() -> None:
    (only,) = parse_instructions(CAPTION[0], label="caption")
    assert (only.label, str(only)) == ("caption:1", CAPTION[0])


def test_bars_between_templates_are_understood_with_a_warning() -> None:
    text = "\n" + " ||| ".join([*CAPTION, "-> [TEXT:cap]"])
    parsed = parse_instructions(text, label="caption")
    assert parsed == parse_instructions([*CAPTION, "-> [TEXT:cap]"])
    (warning,) = parsed[0].warnings
    assert underlined(warning) == [("caption", "|||")] * 2
    assert str(warning).startswith(
        'warning[T0128]: "|||" stands between templates\n  --> caption\n'
    )
    assert str(warning).endswith("\n   = write the templates as a list of instructions")
    assert not parsed[1].warnings


@pytest.mark.parametrize(
    "text", ['[TEXT:a,adapter="|||"] ->', "a || b -> [TEXT:a]"], ids=["in quotes", "two bars"]
)
def test_other_bars_stand_between_no_templates(text: str) -> None:
    (only,) = parse_instructions(text, modalities={"TEXT": OWN})
    assert not only.warnings


def test_a_column_has_one_modality_in_all_templates() -> None:
    texts = [CAPTION[0], "[VIDEO:img] -> [TEXT:cap]", "-> [IMAGE:cap]"]
    problems = refuse(texts)
    assert [problem.code for problem in problems] == ["T0111", "T0111"]
    assert underlined(problems[0]) == [("caption:2", "img"), ("caption:1", "img")]
    assert problems[0].message == '"img" is IMAGE in caption:1 and VIDEO here'
    assert underlined(problems[1]) == [("caption:3", "cap"), ("caption:1", "cap")]


def test_the_problems_of_all_templates_are_shown_together() -> None:
    problems = refuse(["[IMGE:img] ->", CAPTION[1], "no arrow", "[TEXT:img,x] -> [IMAGE:b]"])
    assert [problem.code for problem in problems] == ["T0103", "T0104", "T0120"]
    assert [problem.sites[0].label for problem in problems] == [
        "caption:1",
        "caption:3",
        "caption:4",
    ]


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        pytest.param([], "T0129", id="no template"),
        pytest.param("a -> [TEXT:b] |||", "T0104", id="nothing after the bars"),
        pytest.param("||| -> [TEXT:b]", "T0104", id="nothing before the bars"),
        pytest.param("a -> [TEXT:b] |||| -> [TEXT:b]", "T0106", id="four bars"),
        pytest.param(["a ||| -> [TEXT:b]"], "T0106", id="bars in a list"),
        pytest.param(["-> [TEXT:b]", 3], "T0101", id="a number among templates"),
    ],
)
def test_what_is_no_list_of_templates_is_refused(texts: object, code: str) -> None:
    assert refuse(cast("Any", texts))[0].code == code
