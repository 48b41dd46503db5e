"""Reading a view that was written as JSON: whatever passes here is one that every renderer can draw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

from .errors import PlanError
from .render.schema import view_schema
from .view_form import VIEW_FORMAT, NodeView, View

_Schema: TypeAlias = Mapping[str, Any]

_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


def read_view(text: str, *, name: str = "this") -> View:
    """Return the view that was written as ``text``.

    Args:
        text: JSON.
        name: What to call it in messages, such as the name of its file.

    Raises:
        PlanError: It is no view (T0280), or one of another format (T0281).
    """
    try:
        content: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise PlanError.of("T0280", f"{name} is no view: it is not JSON, {error}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found != VIEW_FORMAT:
        message = (
            f"{name} is a view of format {found}, and this taskloom reads format {VIEW_FORMAT}"
        )
        raise PlanError.of("T0281", message, "write it again: taskloom graph PROJECT -o graph.json")
    schema = view_schema()
    fault = next(_check(content, schema, schema["$defs"], ""), None)
    fault = fault or next(_check_places(cast("View", content)), None)
    if fault is not None:
        help_ = "taskloom graph PROJECT -o graph.json writes one; taskloom schema view describes it"
        raise PlanError.of("T0280", f"{name} is no view: {fault}", help_)
    return cast("View", content)


def _check(value: Any, schema: _Schema, forms: _Schema, at: str) -> Iterator[str]:
    """Yield where ``value`` breaks ``schema``: the few keywords of JSON schema that a view uses."""
    if "$ref" in schema:
        schema = forms[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        yield from min((list(_check(value, arm, forms, at)) for arm in schema["anyOf"]), key=len)
    elif "enum" in schema:
        yield from [] if value in schema["enum"] else [f"{at} is {_show(value)}"]
    elif not isinstance(value, _KINDS[schema["type"]]) or _is_disguised(value, schema["type"]):
        yield f"{at or 'it'} is no {schema['type']}"
    else:
        yield from _check_parts(value, schema, forms, at)


def _check_parts(value: Any, schema: _Schema, forms: _Schema, at: str) -> Iterator[str]:
    if schema["type"] == "array":
        for number, item in enumerate(value):
            yield from _check(item, schema["items"], forms, f"{at}[{number}]")
    elif "properties" in schema:
        if odd := sorted(set(schema["required"]) ^ set(value)):
            word = "has no" if odd[0] in schema["required"] else "has an unknown"
            yield f"{at or 'it'} {word} {_show(odd[0])}"
            return
        for key, one in schema["properties"].items():
            yield from _check(value[key], one, forms, f"{at}.{key}".removeprefix("."))


def _is_disguised(value: object, kind: str) -> bool:
    return isinstance(value, bool) and kind != "boolean"  # to Python, True is an integer


def _check_places(view: View) -> Iterator[str]:
    """Yield which numbers point at nothing, or against the order."""
    num_nodes = len(view["nodes"])
    for number, edge in enumerate(view["edges"]):
        if not 0 <= edge["maker"] < edge["user"] < num_nodes:
            yield f"edges[{number}] leads from {edge['maker']} to {edge['user']}"
    for number, result in enumerate(view["results"]):
        if not 0 <= result["node"] < num_nodes:
            yield f"results[{number}] is node {result['node']} of {num_nodes}"
    for number, node in enumerate(view["nodes"]):
        yield from (f"nodes[{number}] {fault}" for fault in _check_node(view, node))


def _check_node(view: View, node: NodeView) -> Iterator[str]:
    places = [site["instruction"] for site in node["sites"]]
    if not all(0 <= place < len(view["instructions"]) for place in places):
        yield "names an instruction that is not there"
    if node["segment"] is not None and not 0 <= node["segment"] < len(view["segments"]):
        yield "names a segment that is not there"
    if all(lane["stage"] != node["stage"] for lane in view["lanes"]):
        yield "stands in no lane"
    if not node["outputs"]:
        yield "has no output"


def _show(value: object) -> str:
    return json.dumps(value)[:40]
