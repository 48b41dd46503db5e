"""A view that was written is read as it was, and what is no view is refused before anything draws it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from taskloom.graph.diff import compare
from taskloom.graph.errors import PlanError
from taskloom.graph.reading import read_view
from taskloom.graph.render.formats import FORMATS
from taskloom.graph.view_form import View

from .plans import plan_like_tasks, plan_prompt, plan_two_tasks
from .test_view import measured


@pytest.mark.parametrize(
    "view",
    [
        plan_two_tasks().view(),
        measured(plan_two_tasks()),
        compare(plan_two_tasks().view(), plan_prompt("why?").view()),
        plan_like_tasks(50).view(),
    ],
)
def test_every_format_is_a_function_of_the_json(view: View) -> None:
    returned = read_view(FORMATS[".json"](view))
    assert returned == view
    for render in FORMATS.values():
        assert render(returned) == render(view)


def change(*path: str | int, to: Any) -> Callable[[Any], None]:
    """Return what sets the value at ``path``."""

    def put(view: Any) -> None:
        for step in path[:-1]:
            view = view[step]
        view[path[-1]] = to

    return put


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(change("nodes", 0, "stage", to="later"), "nodes[0].stage is", id="enum"),
        pytest.param(change("nodes", 3, "op", to=7), "nodes[3].op is no string", id="type"),
        pytest.param(change("edges", 0, "maker", to=True), "edges[0].maker is no", id="true"),
        pytest.param(change("edges", 0, "maker", to=10**6), "edges[0] leads from", id="far edge"),
        pytest.param(change("edges", 0, "maker", to=-1), "edges[0] leads from", id="edge before"),
        pytest.param(change("results", 0, "node", to=99), "results[0] is node 99", id="result"),
        pytest.param(change("instructions", to=[]), "an instruction that is", id="instruction"),
        pytest.param(change("segments", to=[]), "a segment that is", id="segment"),
        pytest.param(change("lanes", to=[]), "nodes[0] stands in no lane", id="lane"),
        pytest.param(change("nodes", 0, "outputs", to=[]), "nodes[0] has no output", id="output"),
        pytest.param(change("colour", to="red"), 'it has an unknown "colour"', id="more"),
        pytest.param(lambda view: view.pop("title"), 'it has no "title"', id="less"),
        pytest.param(lambda view: view.clear(), "it has no", id="nothing"),
    ],
)
def test_a_damaged_view_is_refused_by_its_first_fault(
    damage: Callable[[Any], object], message: str
) -> None:
    view: Any = copy.deepcopy(plan_two_tasks().view())
    damage(view)
    with pytest.raises(PlanError) as caught:
        read_view(json.dumps(view), name="graph.json")
    assert caught.value.problems[0].code == "T0280"
    assert caught.value.problems[0].message.startswith("graph.json is no view: ")
    assert message in caught.value.problems[0].message


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"view"', "null", "[" * 100_000])
def test_what_is_no_json_object_is_no_view(text: str) -> None:
    with pytest.raises(PlanError, match="T0280"):
        read_view(text)


@pytest.mark.parametrize("number", [1, 99])
def test_another_format_is_named(number: int) -> None:
    text = json.dumps(plan_two_tasks().view() | {"format": number})
    with pytest.raises(PlanError, match=rf"T0281.*format {number}, .* reads format 2"):
        read_view(text)
