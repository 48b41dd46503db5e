"""An error says what is wrong, wherever it stands, in as many words as a person reads."""

from __future__ import annotations

import json
import pickle
import re

from hypothesis import given
from hypothesis import strategies as st

from taskloom.graph import errors
from taskloom.graph.errors import Problem, RowError, Site, Span, TaskloomError


def sites_of(number: int) -> tuple[Site, ...]:
    """Return one slot of each of ``number`` instructions."""
    text = "[IMAGE:img] what is it? -> [TEXT:answer]"
    return tuple(Site(f"task-{i:04}:1", f"{i} {text}", Span(5, 16)) for i in range(number))


def carets(problem: Problem) -> int:
    return str(problem).count("^" * 11)


@given(st.integers(0, 60))
def test_every_instruction_of_a_few_is_shown_with_a_caret_and_of_many_the_rest_is_counted(
    number: int,
) -> None:
    problem = Problem("T0301", "broken", "mend it", sites_of(number))
    hidden = number - carets(problem)
    assert hidden == (0 if number <= errors.MANY_INSTRUCTIONS else number - 3)
    last = re.findall(r"^  --> and ([\d,]+) more instructions$", str(problem), re.MULTILINE)
    assert last == ([f"{hidden:,}"] if hidden else [])


def test_a_thousand_instructions_take_a_dozen_lines_and_keep_their_places() -> None:
    problem = Problem("T0301", "broken", "mend it", sites_of(1000))
    assert str(problem).splitlines()[-2:] == ["  --> and 997 more instructions", "   = mend it"]
    assert len(str(problem).splitlines()) == 12
    assert len(problem.sites) == 1000


def test_two_places_in_one_instruction_are_one_instruction() -> None:
    twice = [Site(site.label, site.text, Span(0, 1)) for site in sites_of(8)]
    assert "more instructions" not in str(Problem("T0111", "x", sites=(*sites_of(8), *twice)))
    assert str(Problem("T0111", "x", sites=(*sites_of(9), *twice))).count("-->") == 7


def test_many_bad_rows_of_a_shared_node_carry_its_places_once() -> None:
    sites = sites_of(1000)
    one, many = (
        len(pickle.dumps(RowError(*(Problem("T0301", "x", "", sites, row=f"p:{i}") for i in rows))))
        for rows in (range(1), range(20))
    )
    assert many < 1.05 * one
    assert one < 200 * len(sites), "bytes, of texts of 42 characters"


def test_the_plain_form_of_a_problem_holds_all_of_it() -> None:
    problem = Problem("T0301", "broken", "mend\nit", sites_of(30), "a.img/decode", "p:3", "img")
    plain = json.loads(json.dumps(problem.to_dict()))
    sites = plain.pop("sites")
    assert plain == {
        "code": "T0301",
        "message": "broken",
        "help": "mend\nit",
        "address": "a.img/decode",
        "row": "p:3",
        "column": "img",
    }
    assert len(sites) == 30
    assert sites[7] == {
        "label": "task-0007:1",
        "text": problem.sites[7].text,
        "start": 5,
        "stop": 16,
    }
    assert TaskloomError(problem, problem).to_dict() == {"error": [problem.to_dict()] * 2}
