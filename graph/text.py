"""The text form of a graph: one node a line, followed by its addresses and its places in instructions.

    taskloom graph 1
    %5c1f…@digits = read_columns@1 {"column":"image"} () -> out: any<binary[] scalar>@host/digits
      at digits.image
      in "digits:1" 0:15 "[IMAGE:image] … -> [TEXT:label]"
    output digits %77aa…@digits

Text and graph are equal: reading what was written gives an equal graph. Names that are no plain words stand in
quotes, as JSON writes them, so that each stays on its line whatever it is made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from .errors import PlanError, Site, Span
from .node import Node, NodeId, Note, Value
from .op import canonical
from .type import Type

HEADER = "taskloom graph 1"

_WORD: Final = re.compile(r"[\w.*/+#-]+")
_JSON: Final = json.JSONDecoder()
T = TypeVar("T")


def write_nodes(nodes: Mapping[NodeId, Node], outputs: Mapping[str, Value]) -> str:
    """Return the graph of ``nodes`` that gives ``outputs`` as text."""
    lines = [HEADER]
    for node in nodes.values():
        lines.append(_write_node(node))
        lines += [f"  at {_line(address)}" for address in sorted(node.note.addresses)]
        lines += [
            f"  in {_quote(s.label)} {s.span.start}:{s.span.stop} {_quote(s.text)}"
            for s in sorted(node.note.sites)
        ]
    lines += [f"output {_word(name)} {_value(value)}" for name, value in outputs.items()]
    return "\n".join(lines) + "\n"


def read_nodes(text: str) -> tuple[dict[NodeId, Node], dict[str, Value]]:
    """Return the nodes and the outputs of the graph that ``text`` describes, unchecked.

    Raises:
        PlanError: A line is not understood.
    """
    first, *lines = text.removesuffix("\n").split("\n")
    if first != HEADER:
        raise PlanError.of(
            "T0207", f'a graph\'s text begins with "{HEADER}", this one with {first[:40]!r}'
        )
    nodes: dict[NodeId, Node] = {}
    outputs: dict[str, Value] = {}
    notes: dict[NodeId, tuple[set[str], set[Site]]] = {}
    last: tuple[set[str], set[Site]] | None = None
    for number, line in enumerate(lines, start=2):
        scan = _Scanner(line)
        try:
            if scan.found("  at ") and last is not None:
                last[0].add(scan.line())
            elif scan.found("  in ") and last is not None:
                last[1].add(scan.site())
            elif scan.found("output "):
                name = scan.word()
                scan.expect(" ")
                outputs[name] = scan.value()
            else:
                node = scan.node()
                nodes[node.id] = node
                last = notes[node.id] = (set(), set())
            scan.expect_end()
        except (ValueError, PlanError) as error:
            raise PlanError.of(
                "T0207", f"line {number} is not understood: {line[:80]!r}"
            ) from error
    for node_id, (addresses, sites) in notes.items():
        note = Note(frozenset(addresses), frozenset(sites))
        nodes[node_id] = replace(nodes[node_id], note=note)
    return nodes, outputs


def _write_node(node: Node) -> str:
    params = json.dumps(node.params, sort_keys=True, separators=(",", ":"))
    inputs = ", ".join(f"{_word(port)}={_value(value)}" for port, value in node.inputs.items())
    types = "; ".join(f"{_word(port)}: {_type(type_)}" for port, type_ in node.types.items())
    scope = f" in {_word(node.scope)}" if node.scope else ""
    op = f"{_word(node.op)}@{node.version}"
    return f"{_id(node.id)} = {op}{scope} {params} ({inputs}) -> {types}"


def _id(node: NodeId) -> str:
    return f"%{_word(node.key)}@{_word(node.rows)}" if node.rows else f"%{_word(node.key)}"


def _value(value: Value) -> str:
    return _id(value.node) if value.port == "out" else f"{_id(value.node)}:{_word(value.port)}"


def _type(type_: Type) -> str:
    text = str(type_)
    return text if ";" not in text and _line(text) == text else _quote(text)


def _word(text: str) -> str:
    """Return ``text`` in quotes unless it is a plain word."""
    return text if _WORD.fullmatch(text) else _quote(text)


def _line(text: str) -> str:
    """Return ``text`` in quotes unless it can stand as the rest of a line."""
    is_plain = text.isprintable() and text == text.strip() and text[:1] not in ("", '"')
    return text if is_plain else _quote(text)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


class _Scanner:
    """Reads one line from left to right; what is not as expected is a ValueError."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def found(self, literal: str) -> bool:
        """Step over ``literal`` if it comes next."""
        is_next = self._text.startswith(literal, self._at)
        self._at += len(literal) * is_next
        return is_next

    def expect(self, literal: str) -> None:
        """Step over ``literal``, which must come next."""
        if not self.found(literal):
            raise ValueError(f"expected {literal!r} at column {self._at}")

    def expect_end(self) -> None:
        """Check that the line ends here."""
        if self._at != len(self._text):
            raise ValueError(f"expected the end of the line at column {self._at}")

    def node(self) -> Node:
        """Read a node."""
        node_id = self.id()
        self.expect(" = ")
        op = self.word()
        self.expect("@")
        version = self.number()
        scope = self.word() if self.found(" in ") else ""
        self.expect(" ")
        params = self.object()
        self.expect(" (")
        inputs = dict(self._pairs(")", "=", ", ", self.value))
        self.expect(" -> ")
        return Node(
            id=node_id,
            op=op,
            version=version,
            params={name: canonical(value, name) for name, value in params.items()},
            inputs=inputs,
            types=dict(self._pairs("", ": ", "; ", self.type)),
            scope=scope,
        )

    def site(self) -> Site:
        """Read a place in an instruction."""
        label = self.word()
        self.expect(" ")
        start = self.number()
        self.expect(":")
        stop = self.number()
        self.expect(" ")
        return Site(label, self.word(), Span(start, stop))

    def id(self) -> NodeId:
        """Read the id of a node."""
        self.expect("%")
        key = self.word()
        return NodeId(key, self.word()) if self.found("@") else NodeId(key)

    def value(self) -> Value:
        """Read one output of a node."""
        node = self.id()
        return Value(node, self.word()) if self.found(":") else Value(node)

    def type(self) -> Type:
        """Read a type."""
        if self._text.startswith('"', self._at):
            return Type.parse(self.json())
        text = self._text[self._at :].partition(";")[0]
        self._at += len(text)
        return Type.parse(text)

    def word(self) -> str:
        """Read a plain word, or one in quotes."""
        if self._text.startswith('"', self._at):
            return self.json()
        if not (match := _WORD.match(self._text, self._at)):
            raise ValueError(f"expected a name at column {self._at}")
        self._at = match.end()
        return match[0]

    def line(self) -> str:
        """Read the rest of the line, which may stand in quotes."""
        if self._text.startswith('"', self._at):
            return self.json()
        rest, self._at = self._text[self._at :], len(self._text)
        return rest

    def number(self) -> int:
        """Read a whole number."""
        return int(self.word())

    def object(self) -> dict[str, Any]:
        """Read a JSON object."""
        if not self._text.startswith("{", self._at):
            raise ValueError(f"expected an object at column {self._at}")
        return self.json()

    def json(self) -> Any:
        """Read any JSON."""
        content, self._at = _JSON.raw_decode(self._text, self._at)
        return content

    def _pairs(
        self, end: str, within: str, between: str, read: Callable[[], T]
    ) -> Iterator[tuple[str, T]]:
        """Read names and what stands behind each, up to ``end``."""
        while not (self.found(end) if end else self._at == len(self._text)):
            name = self.word()
            self.expect(within)
            yield name, read()
            self.found(between)
