"""Attributes that resolve have their type and range; all others are pointed at, with what was meant."""

from __future__ import annotations

import pickle

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.attribute import PROBLEMS, Attribute
from taskloom.graph.errors import InstructionError, Problem
from taskloom.graph.instruction import parse_instruction
from taskloom.graph.modality import Modality
from taskloom.graph.resolve import resolve_attributes
from taskloom.graph.syntax import AttributeValue

SPECS = (
    Attribute("closed_set", bool, doc="The answer is one of those in training rows."),
    Attribute("max_length", int, low=1, high=1024, doc="Ids kept of each text."),
    Attribute("noise_ratio", float, low=0, default=0.0),
    Attribute("resample", str, choices=("bicubic", "nearest"), default="bicubic"),
    Attribute("separator", str),
    Attribute("depth", int, high=8, default=4),
    Attribute("share", float, low=0, high=1, is_open=True),
    Attribute("rate", float, low=0, is_open=True),
    Attribute("score", float, high=1, is_open=True),
    Attribute("unit", str, choices=("pixel",)),
    Attribute("blanked", bool, side="source", doc="The middle is blank."),
)
MODALITIES = {"TEXT": Modality.of("TEXT", SPECS)}
DEFAULTS = {
    "closed_set": False,
    "noise_ratio": 0.0,
    "resample": "bicubic",
    "depth": 4,
    "blanked": False,
}


def resolve(attributes: str) -> dict[str, AttributeValue]:
    text = f"-> [TEXT:a{attributes}]"
    instruction = parse_instruction(text, label="task:1", modalities=MODALITIES)
    (slot,) = instruction.slots
    return resolve_attributes(slot, SPECS, instruction.site(slot.span))


def refuse(attributes: str) -> tuple[Problem, ...]:
    with pytest.raises(InstructionError) as caught:
        resolve(attributes)
    return caught.value.problems


def underlined(problem: Problem) -> str:
    (site,) = problem.sites
    return site.text[site.span.start : site.span.stop]


def test_a_slot_without_attributes_has_the_defaults() -> None:
    assert resolve("") == DEFAULTS


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param(",closed_set", {"closed_set": True}, id="flag"),
        pytest.param(",closed_set=true", {"closed_set": True}, id="flag in words"),
        pytest.param(",closed_set=false", {"closed_set": False}, id="flag taken back"),
        pytest.param(",max_length=1", {"max_length": 1}, id="least"),
        pytest.param(",max_length=1024", {"max_length": 1024}, id="greatest"),
        pytest.param(",depth=-3", {"depth": -3}, id="no lower bound"),
        pytest.param(",noise_ratio=1e3", {"noise_ratio": 1000.0}, id="no upper bound"),
        pytest.param(",resample=nearest", {"resample": "nearest"}, id="choice"),
        pytest.param(",share=.001", {"share": 0.001}, id="inside an open range"),
        pytest.param(',separator=" -> "', {"separator": " -> "}, id="quoted text"),
        pytest.param(',separator="8"', {"separator": "8"}, id="quoted number"),
    ],
)
def test_given_values_replace_the_defaults(attributes: str, expected: dict[str, object]) -> None:
    assert resolve(attributes) == DEFAULTS | expected


@given(st.integers(0, 1 << 53) | st.floats(0, 1e300))
def test_every_number_becomes_a_float_where_a_float_is_wanted(number: float) -> None:
    value = resolve(f",noise_ratio={number!r}")["noise_ratio"]
    assert isinstance(value, float)
    assert value == number


# Each case: attributes, code, what is underlined, message, help.
REFUSED = [
    (",max_lenght=8", "T0120", "max_lenght=8", '"max_lenght"', "did you mean max_length?"),
    (",adaptor=text", "T0120", "adaptor=text", 'TEXT slots have no attribute "adaptor"', "known: "),
    (",max_length", "T0121", "max_length", "a whole number, got no value", "max_length=…"),
    (",max_length=8.0", "T0121", "max_length=8.0", "a whole number, got 8.0", "max_length=…"),
    (",max_length=long", "T0121", "max_length=long", "got long", "Ids kept of each text."),
    (",noise_ratio=inf", "T0121", "noise_ratio=inf", "a number, got inf", "noise_ratio=…"),
    (',depth="3"', "T0121", 'depth="3"', 'a whole number, got "3"', "depth=…"),
    (",separator=8", "T0121", "separator=8", "text, got 8", "in quotes"),
    (",separator", "T0121", "separator", "text, got no value", "separator=…"),
    (",closed_set=1", "T0121", "closed_set=1", "a flag, got 1", "closed_set alone"),
    (",max_length=0", "T0122", "max_length=0", "from 1 to 1024, got 0", "Ids kept of each text."),
    (",max_length=1025", "T0122", "max_length=1025", "from 1 to 1024, got 1025", ""),
    (",noise_ratio=-0.1", "T0122", "noise_ratio=-0.1", "at least 0, got -0.1", ""),
    (",depth=9", "T0122", "depth=9", "at most 8, got 9", ""),
    (",share=0", "T0122", "share=0", "above 0 and below 1, got 0.0", ""),
    (",share=1", "T0122", "share=1", "above 0 and below 1, got 1.0", ""),
    (",rate=0", "T0122", "rate=0", "above 0, got 0.0", ""),
    (",score=1", "T0122", "score=1", "below 1, got 1.0", ""),
    (",resample=bicubik", "T0123", "resample=bicubik", "one of bicubic, nearest", "mean bicubic?"),
    (",unit=bin", "T0123", "unit=bin", 'unit must be pixel, got "bin"', "known: pixel"),
    (",blanked", "T0215", "blanked", "belongs to a source slot", "left of the arrow"),
    (",blanked=false", "T0215", "blanked=false", "a source slot", "The middle is blank."),
]


@pytest.mark.parametrize(("attributes", "code", "part", "message", "advice"), REFUSED)
def test_wrong_attributes_are_pointed_at(
    attributes: str, code: str, part: str, message: str, advice: str
) -> None:
    (problem,) = refuse(attributes)
    assert (problem.code, underlined(problem)) == (code, part)
    assert message in problem.message
    assert advice in problem.help


def test_every_code_of_the_table_has_a_case() -> None:
    assert {case[1] for case in REFUSED} == {"T0120", *PROBLEMS}


def test_all_problems_of_a_slot_are_shown_together_in_order() -> None:
    problems = refuse(",colour=red,max_length=0,closed_set,resample=8")
    assert [problem.code for problem in problems] == ["T0120", "T0122", "T0121"]


def test_errors_cross_process_boundaries() -> None:
    with pytest.raises(InstructionError) as caught:
        resolve(",max_length=0")
    returned = pickle.loads(pickle.dumps(caught.value))
    assert str(returned) == str(caught.value)
    assert str(returned).splitlines() == [
        "error[T0122]: max_length must be from 1 to 1024, got 0",
        "  --> task:1",
        "   | -> [TEXT:a,max_length=0]",
        "   |            ^^^^^^^^^^^^",
        "   = Ids kept of each text.",
    ]
