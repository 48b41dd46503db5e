"""A view says what the graph says, in plain JSON that its published schema describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from taskloom.graph.node import Value
from taskloom.graph.render.schema import view_schema
from taskloom.graph.view import State, Status, make_view

from .plans import Planned, Planning, Task, plan_like_tasks, plan_two_tasks

KINDS: dict[str, type[Any]] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "object": dict,
    "string": str,
}


def faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> list[str]:
    """Return where ``value`` breaks ``schema``: the few keywords of JSON schema that a view uses."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return min((faults(value, arm, root, at) for arm in schema["anyOf"]), key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: {value!r}"]
    if not isinstance(value, KINDS[schema["type"]]):
        return [f"{at}: {type(value).__name__} is no {schema['type']}"]
    parts: list[tuple[Any, Any, str]] = []
    if schema["type"] == "array":
        parts = [(item, schema["items"], f"{at}[{i}]") for i, item in enumerate(value)]
    if "properties" in schema:
        if odd := set(schema["required"]) ^ set(value):
            return [f"{at}: {sorted(odd)}"]
        parts = [(value[k], one, f"{at}.{k}") for k, one in schema["properties"].items()]
    return [fault for item, one, where in parts for fault in faults(item, one, root, where)]


def check(view: Any) -> list[str]:
    schema = view_schema()
    return faults(json.loads(json.dumps(view)), schema, schema, "view")


@pytest.mark.parametrize("planned", [plan_two_tasks(), plan_like_tasks(5), Planning().plan([])])
def test_views_fit_their_schema(planned: Planned) -> None:
    assert check(planned.view()) == []
    assert check(planned.view(encode_texts=State(Status.STALE, "version 1 -> 2"))) == []


def test_schema_refuses_what_is_no_view() -> None:
    view = plan_two_tasks().view()
    assert check(view | {"colour": "red"})
    assert check({key: view[key] for key in view if key != "nodes"})
    assert check(view | {"nodes": [view["nodes"][0] | {"stage": "later"}]})
    assert check(view | {"edges": [view["edges"][0] | {"maker": "0"}]})


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
