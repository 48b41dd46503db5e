"""The text form of a graph: one node a line, followed by its addresses and its places in instructions.

    taskloom graph 1
    %5c1f…@digits = read_columns@1 {"column":"image"} () -> out: any<binary[] scalar>@host/digits
      at digits.image
      in "digits:1" 0:15 "[IMAGE:image] … -> [TEXT:label]"
    output digits %77aa…@digits

Text and graph are equal: reading what was written gives an equal graph.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .errors import PlanError, Site, Span
from .node import Node, NodeId, Note, Value
from .op import canonical
from .type import Type

HEADER = "taskloom graph 1"

_NODE = re.compile(
    r"(?P<id>%\S+) = (?P<op>\w+)@(?P<version>\d+)(?: in (?P<scope>\S+))? (?P<params>\{.*\}) "
    r"\((?P<inputs>[^()]*)\) -> (?P<types>.*)"
)


def write_nodes(nodes: Mapping[NodeId, Node], outputs: Mapping[str, Value]) -> str:
    """Return the graph of ``nodes`` that gives ``outputs`` as text."""
    lines = [HEADER]
    for node in nodes.values():
        lines.append(_write_node(node))
        lines += [f"  at {address}" for address in sorted(node.note.addresses)]
        lines += [
            f"  in {_quote(s.label)} {s.span.start}:{s.span.stop} {_quote(s.text)}"
            for s in sorted(node.note.sites)
        ]
    lines += [f"output {name} {value}" for name, value in outputs.items()]
    return "\n".join(lines) + "\n"


def read_nodes(text: str) -> tuple[dict[NodeId, Node], dict[str, Value]]:
    """Return the nodes and the outputs of the graph that ``text`` describes, unchecked.

    Raises:
        PlanError: A line is not understood.
    """
    first, *lines = text.splitlines() or [""]
    if first != HEADER:
        raise PlanError.of(
            "T0207", f'a graph\'s text begins with "{HEADER}", this one with {first[:40]!r}'
        )
    nodes: dict[NodeId, Node] = {}
    outputs: dict[str, Value] = {}
    last: NodeId | None = None
    for number, line in enumerate(lines, start=2):
        try:
            if line.startswith("  ") and last is not None:
                nodes[last] = replace(nodes[last], note=nodes[last].note | _read_note(line))
            elif line.startswith("output "):
                _, name, value = line.split(" ")
                outputs[name] = Value.parse(value)
            else:
                node = _read_node(line)
                nodes[last := node.id] = node
        except (ValueError, AttributeError, KeyError) as error:
            raise PlanError.of(
                "T0207", f"line {number} is not understood: {line[:80]!r}"
            ) from error
    return nodes, outputs


def _write_node(node: Node) -> str:
    params = json.dumps(node.params, sort_keys=True, separators=(",", ":"))
    inputs = ", ".join(f"{port}={value}" for port, value in node.inputs.items())
    types = "; ".join(f"{port}: {type_}" for port, type_ in node.types.items())
    scope = f" in {node.scope}" if node.scope else ""
    return f"{node.id} = {node.op}@{node.version}{scope} {params} ({inputs}) -> {types}"


def _read_node(line: str) -> Node:
    match = _NODE.fullmatch(line)
    if match is None:
        raise ValueError(line)
    params: Any = json.loads(match["params"])
    plain = {key: canonical(value, key) for key, value in params.items()}
    return Node(
        id=NodeId.parse(match["id"]),
        op=match["op"],
        version=int(match["version"]),
        params=plain,
        inputs={port: Value.parse(value) for port, value in _pairs(match["inputs"], ", ", "=")},
        types={port: Type.parse(type_) for port, type_ in _pairs(match["types"], "; ", ": ")},
        scope=match["scope"] or "",
    )


def _pairs(text: str, between: str, within: str) -> Iterable[tuple[str, str]]:
    for item in text.split(between) if text else []:
        name, _, value = item.partition(within)
        yield name, value


def _read_note(line: str) -> Note:
    word, _, rest = line.strip().partition(" ")
    if word == "at":
        return Note(addresses=frozenset([rest]))
    decoder = json.JSONDecoder()
    label, end = decoder.raw_decode(rest)
    span, _, text = rest[end + 1 :].partition(" ")
    start, _, stop = span.partition(":")
    return Note(sites=frozenset([Site(label, json.loads(text), Span(int(start), int(stop)))]))


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)
