"""A view says what the graph says, in plain JSON that its published schema describes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from taskloom.graph.measure import Measure
from taskloom.graph.node import Value
from taskloom.graph.preview import PreviewView
from taskloom.graph.render.schema import view_schema
from taskloom.graph.view import State, Status, View, make_view

from .plans import Planned, Planning, Task, plan_like_tasks, plan_two_tasks

PUBLISHED = Path(__file__).parents[2] / "docs/view.schema.json"
SHOWN: PreviewView = {
    "row": "0",
    "kind": "tokens",
    "text": "two ids",
    "image": None,
    "waveform": [0, 0.5],
    "tokens": [{"id": 7, "text": "a", "weight": 0.5}, {"id": 8, "text": "", "weight": 0}],
}


def check(view: Any) -> list[str]:
    """Return what the published schema says against ``view``."""
    schema = json.loads(PUBLISHED.read_text("utf-8"))
    return [
        e.json_path for e in Draft202012Validator(schema).iter_errors(json.loads(json.dumps(view)))
    ]


def measured(planned: Planned) -> View:
    """Return the view of ``planned``, all of whose nodes ran and are sampled."""
    measures = {
        node.id: Measure(calls=2, rows_in=9, rows_out=8, rejects=1, bytes=640, seconds=0.5 * number)
        for number, node in enumerate(planned.graph)
    }
    previews = {node.id: [SHOWN] for node in planned.graph}
    return make_view(
        planned.graph,
        title="measured",
        stages=planned.cut.stages,
        stored=planned.cut.stored,
        measures=measures,
        previews=previews,
    )


def test_published_schema_is_current() -> None:
    """To renew it: ``taskloom schema view > docs/view.schema.json``."""
    assert json.loads(PUBLISHED.read_text("utf-8")) == view_schema()
    Draft202012Validator.check_schema(view_schema())


@pytest.mark.parametrize("planned", [plan_two_tasks(), plan_like_tasks(5), Planning().plan([])])
def test_views_fit_their_schema(planned: Planned) -> None:
    assert check(planned.view()) == []
    assert check(planned.view(encode_texts=State(Status.STALE, "version 1 -> 2"))) == []
    assert check(measured(planned)) == []


def test_schema_refuses_what_is_no_view() -> None:
    view = plan_two_tasks().view()
    assert check(view | {"colour": "red"})
    assert check({key: view[key] for key in view if key != "nodes"})
    assert check(view | {"nodes": [view["nodes"][0] | {"stage": "later"}]})
    assert check(view | {"edges": [view["edges"][0] | {"maker": "0"}]})
    assert check(view | {"nodes": [view["nodes"][0] | {"previews": [SHOWN | {"kind": "smell"}]}]})
    assert check(view | {"nodes": [view["nodes"][0] | {"measure": {"seconds": 1.0}}]})


def test_view_is_json_already() -> None:
    view = plan_two_tasks().view(encode_texts=State(Status.CACHED))
    assert json.loads(json.dumps(view)) == view


def test_nodes_and_edges_are_those_of_the_graph() -> None:
    planned = plan_two_tasks()
    view = planned.view()
    assert [node["key"] for node in view["nodes"]] == [node.key for node in planned.graph]
    edges = {
        (view["nodes"][e["maker"]]["key"], e["output"], view["nodes"][e["user"]]["key"], e["input"])
        for e in view["edges"]
    }
    assert edges == {
        (value.node.key, value.port, node.key, port)
        for node in planned.graph
        for port, value in node.inputs.items()
    }
    assert all(edge["maker"] < edge["user"] for edge in view["edges"])


def test_stages_and_reasons_are_those_of_the_cut() -> None:
    planned = plan_two_tasks()
    view = planned.view()
    stored = {
        Value(graph_node.id, output["port"]): output["stored"]
        for node, graph_node in zip(view["nodes"], planned.graph, strict=True)
        for output in node["outputs"]
        if output["stored"] is not None
    }
    assert stored == planned.cut.stored
    assert [n["stage"] for n in view["nodes"]] == [planned.cut.stages[n.id] for n in planned.graph]
    assert [lane["stage"] for lane in view["lanes"]] == ["offline", "online", "device"]


def test_lanes_without_nodes_are_left_out() -> None:
    planned = plan_two_tasks()
    offline = planned.graph.needs(list(planned.cut.stored))
    graph = type(planned.graph)({node.id: node for node in offline}, {})
    view = make_view(graph, title="", stages=planned.cut.stages)
    assert [lane["stage"] for lane in view["lanes"]] == ["offline"]


def test_sites_point_at_the_slots() -> None:
    view = plan_two_tasks().view()
    (resize,) = [node for node in view["nodes"] if node["op"] == "resize_images"]
    texts = [view["instructions"][site["instruction"]]["text"] for site in resize["sites"]]
    slots = [t[s["start"] : s["stop"]] for t, s in zip(texts, resize["sites"], strict=True)]
    assert slots == ["[IMAGE:img]", "[IMAGE:img]"]
    assert resize["addresses"] == ["caption.img/resize", "vqa.img/resize"]


def test_default_parameters_are_told_from_others() -> None:
    planned = plan_two_tasks()
    (resize,) = [node for node in planned.view()["nodes"] if node["op"] == "resize_images"]
    assert resize["changed"] == ["height", "width"]
    assert resize["params"] == {"height": 224, "width": 224, "resample": "bicubic"}
    plain = make_view(planned.graph, title="", stages=planned.cut.stages)
    assert all(node["changed"] == list(node["params"]) for node in plain["nodes"])


def test_nobody_asked_is_no_state_and_left_out_is_unknown() -> None:
    planned = plan_two_tasks()
    assert all(node["state"] is None for node in planned.view()["nodes"])
    for node in planned.view(encode_texts=State(Status.STALE, "why"))["nodes"]:
        is_stored = any(output["stored"] is not None for output in node["outputs"])
        if node["op"] == "encode_texts":
            assert node["state"] == {"status": "stale", "why": "why"}
        elif is_stored:
            assert node["state"] == {"status": "unknown", "why": ""}
        else:
            assert node["state"] is None


def test_names_and_prompts_in_no_key_change_no_digest() -> None:
    def digest(task: Task, title: str) -> str:
        return Planning().plan([task]).view(title)["digest"]

    task = Task(name="a", source="coco")
    assert digest(task, "x") == digest(Task(name="b", source="coco"), "y")
    assert digest(task, "x") != digest(Task(name="a", source="coco", prompt="else"), "x")


def test_segments_are_named_by_the_nodes_that_run_in_them() -> None:
    view = plan_two_tasks().view()
    for node in view["nodes"]:
        if node["segment"] is not None:
            assert view["segments"][node["segment"]]["rows"] == node["rows"]
    decode = next(node for node in view["nodes"] if node["op"] == "decode_images")
    assert decode["segment"] is not None
    assert view["segments"][decode["segment"]]["in_process"]


def test_shares_of_a_stage_sum_to_one() -> None:
    view = measured(plan_two_tasks())
    for lane in view["lanes"]:
        figures = [node["measure"] for node in view["nodes"] if node["stage"] == lane["stage"]]
        assert sum(figure["share"] for figure in figures if figure) == pytest.approx(1.0)


def test_measures_and_samples_stand_at_their_nodes() -> None:
    planned = plan_two_tasks()
    ran, shown = list(planned.graph)[2], list(planned.graph)[4]
    measure = Measure(calls=3, rows_in=5, rows_out=4, rejects=1, bytes=80, seconds=0.0)
    view = make_view(
        planned.graph,
        title="",
        stages=planned.cut.stages,
        measures={ran.id: measure},
        previews={shown.id: [SHOWN]},
    )
    for number, node in enumerate(view["nodes"]):
        assert node["measure"] == (asdict(measure) | {"share": 0.0} if number == 2 else None)
        assert node["previews"] == ([SHOWN] if number == 4 else [])


def test_bytes_of_a_row_are_told_where_rows_are_alike() -> None:
    sizes = {
        node["op"]: output["bytes_per_row"]
        for node in plan_two_tasks().view()["nodes"]
        for output in node["outputs"]
    }
    assert sizes["resize_images"] == 224 * 224 * 3
    assert sizes["encode_texts"] is None
