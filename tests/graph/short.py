"""Graphs in a form for tests: like their text, but keys are ``%1``, ``%2``, and what follows is left out.

    %1 = read_columns column="image" over photos at t.image
    %2 = decode_images (data=%1)
    output pixels %2

Types follow from ops, parameters that are not named have their defaults, and keys from all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from textwrap import dedent
from typing import Any

from taskloom.graph.draft import Draft
from taskloom.graph.graph import Graph
from taskloom.graph.node import Node, NodeId, Value
from taskloom.graph.op import Rows
from taskloom.graph.passes.cut import Cut, Stage
from taskloom.graph.passes.segment import Segment

from .ops import CATALOGUE

_LINE = re.compile(
    r"%(?P<id>\d+) = (?P<op>\w+)(?P<params>(?: \w+=.+?)*?)(?: \((?P<inputs>[^()]*)\))?"
    r"(?: over (?P<rows>\S+))?(?: in (?P<scope>\S+))?(?: at (?P<addresses>.+))?"
)
_PARAM = re.compile(r" (\w+)=")


def read_short(text: str) -> Graph:
    """Return the graph that ``text`` describes."""
    draft = Draft(CATALOGUE)
    values: dict[str, Value] = {}
    outputs: dict[str, Value] = {}
    for line in dedent(text).strip().splitlines():
        if line.startswith("output "):
            _, name, value = line.split(" ")
            outputs[name] = _read_value(value, values)
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, line
        addresses = (match["addresses"] or "").split(", ")
        for address in addresses:
            values[match["id"]] = draft.add(
                CATALOGUE[match["op"]](**_read_params(match["params"])),
                {
                    port: _read_value(value, values)
                    for port, _, value in (
                        item.partition("=") for item in (match["inputs"] or "").split(", ") if item
                    )
                },
                rows=match["rows"] or "",
                scope=match["scope"] or "",
                address=address,
            )
    return draft.graph(outputs)


def write_short(graph: Graph) -> str:
    """Return ``graph`` in the short form, nodes numbered in order."""
    names = name_nodes(graph)
    lines = [_write_node(node, names) for node in graph]
    lines += [f"output {name} {_write_value(v, names)}" for name, v in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def write_stages(graph: Graph, cut: Cut) -> str:
    """Return the nodes of each stage, and why values are stored."""
    names = name_nodes(graph)
    lines = [
        " ".join([stage, *(names[node] for node, its in cut.stages.items() if its is stage)])
        for stage in Stage
        if stage in cut.stages.values()
    ]
    reasons = cut.reasons()
    lines += [f"store {_write_value(value, names)}: {why}" for value, why in reasons.items()]
    return "\n".join(lines) + "\n"


def write_segments(graph: Graph, segments: Iterable[Segment]) -> str:
    """Return each segment: its source, where it runs, its nodes, and what it stores."""
    names = name_nodes(graph)
    return "".join(
        f"{one.rows} in a {'process' if one.needs_process else 'thread'}: "
        f"{' '.join(names[node] for node in one.nodes)} -> "
        f"{' '.join(_write_value(value, names) for value in one.stored)}\n"
        for one in segments
    )


def name_nodes(graph: Graph) -> dict[NodeId, str]:
    """Return the short name of each node."""
    return {node.id: f"%{number}" for number, node in enumerate(graph, start=1)}


def _write_node(node: Node, names: Mapping[NodeId, str]) -> str:
    op: Any = CATALOGUE[node.op]
    defaults = {field.name: field.default for field in fields(op)}
    params = [
        f" {name}={json.dumps(value)}"
        for name, value in node.params.items()
        if defaults[name] is MISSING or defaults[name] != value
    ]
    inputs = ", ".join(
        f"{port}={_write_value(value, names)}" for port, value in node.inputs.items()
    )
    parts = [
        f"{names[node.id]} = {node.op}{''.join(params)}",
        f"({inputs})" if inputs else "",
        f"over {node.id.rows}" if op.traits.rows is Rows.READ else "",
        f"in {node.scope}" if node.scope else "",
        f"at {', '.join(sorted(node.note.addresses))}" if node.note.addresses else "",
    ]
    return " ".join(filter(None, parts))


def _write_value(value: Value, names: Mapping[NodeId, str]) -> str:
    name = names[value.node]
    return name if value.port in ("out", "ids") else f"{name}:{value.port}"


def _read_value(text: str, values: Mapping[str, Value]) -> Value:
    number, _, port = text.removeprefix("%").partition(":")
    value = values[number]
    return Value(value.node, port) if port else value


def _read_params(text: str) -> dict[str, Any]:
    params: dict[str, Any] = {}
    position = 0
    while match := _PARAM.match(text, position):
        value, position = json.JSONDecoder().raw_decode(text, match.end())
        params[match[1]] = tuple(value) if isinstance(value, list) else value
    return params
