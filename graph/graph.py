"""A task, or many, as one typed graph.

A *node* is one use of an op; a *value* is one output of a node. Nodes are hash-consed: equal work over the same
rows is one node, whichever tasks ask for it. The *plan key* of a node digests op, version, parameters and the
keys of its inputs: no data, no names, no row sets. Names live in *notes*: the addresses and the places in
instructions that a node stands for.

A `Graph` that exists is correct: types are checked as `Draft.add` makes each node, and `Graph.parse` checks a
text as strictly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .errors import PlanError, Problem, Site, suggest
from .op import Catalogue, Op, Plain, Rows, parameters
from .type import CONSTANT_ROWS, Layout, Type, mismatch, unify

KEY_SCHEMA = 1
KEY_LENGTH = 32
PACK_ROWS = "pack"


class NodeId(NamedTuple):
    """A plan key and the row set it is applied to."""

    key: str
    rows: str = CONSTANT_ROWS

    def __str__(self) -> str:
        return f"%{self.key}@{self.rows}" if self.rows else f"%{self.key}"

    @classmethod
    def parse(cls, text: str) -> NodeId:
        """Return the id that ``str`` wrote as ``text``."""
        key, _, rows = text.removeprefix("%").partition("@")
        return cls(key, rows)


class Value(NamedTuple):
    """One output of one node."""

    node: NodeId
    port: str = "out"

    def __str__(self) -> str:
        return str(self.node) if self.port == "out" else f"{self.node}:{self.port}"

    @property
    def column_id(self) -> str:
        """The name under which it is stored."""
        return self.node.key if self.port == "out" else f"{self.node.key}-{self.port}"

    @classmethod
    def parse(cls, text: str) -> Value:
        """Return the value that ``str`` wrote as ``text``."""
        node, _, port = text.partition(":")
        return cls(NodeId.parse(node), port or "out")


@dataclass(frozen=True, slots=True)
class Note:
    """Where a node comes from, for people; no part of any key.

    Attributes:
        addresses: Such as ``caption.img/resize``; a shared node has several.
        sites: Places in instructions.
    """

    addresses: frozenset[str] = frozenset()
    sites: frozenset[Site] = frozenset()

    @property
    def address(self) -> str:
        """The first address in order, by which the node is called in messages."""
        return min(self.addresses, default="")

    def __or__(self, other: Note) -> Note:
        return Note(self.addresses | other.addresses, self.sites | other.sites)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One use of an op.

    Attributes:
        id: Plan key and row set.
        op: Name in the catalogue.
        version: Version of the op.
        params: Canonical parameters.
        inputs: Value that feeds each port.
        types: Type of each output port.
        scope: For device nodes, the name of their parameters: equal scope means the same parameters.
        note: Addresses and sites.
    """

    id: NodeId
    op: str
    version: int
    params: Mapping[str, Plain]
    inputs: Mapping[str, Value]
    types: Mapping[str, Type]
    scope: str = ""
    note: Note = field(default_factory=Note)

    @property
    def key(self) -> str:
        """The plan key."""
        return self.id.key

    @property
    def address(self) -> str:
        """The node's first address, or its short key when it has none."""
        return self.note.address or self.key[:12]

    @property
    def type(self) -> Type:
        """The type of a node's only output."""
        (only,) = self.types.values()
        return only


@dataclass(frozen=True, slots=True)
class Graph:
    """Typed nodes in topological order, and the values that are wanted of them."""

    nodes: Mapping[NodeId, Node]
    outputs: Mapping[str, Value]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, address: str) -> Node:
        """Return the node at ``address``.

        Raises:
            PlanError: No node has that address.
        """
        for node in self:
            if address in node.note.addresses:
                return node
        known = {a for node in self for a in node.note.addresses}
        raise PlanError.of("T0203", f'no node is at "{address}"', suggest(address, known))

    def __str__(self) -> str:
        from .text import write_graph  # noqa: PLC0415 - the text form knows the graph

        return write_graph(self)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Graph.parse, (str(self),)

    @staticmethod
    def parse(text: str) -> Graph:
        """Return the graph that ``str`` wrote as ``text``.

        Raises:
            PlanError: The text is no graph, or a node in it does not follow from its inputs.
        """
        from .text import read_graph  # noqa: PLC0415 - the text form knows the graph

        return read_graph(text)

    def type_of(self, value: Value) -> Type:
        """Return the type of ``value``."""
        return self.nodes[value.node].types[value.port]

    def needs(self, values: Iterable[Value]) -> tuple[Node, ...]:
        """Return the nodes that ``values`` are computed from, in topological order."""
        found: dict[NodeId, Node] = {}
        waiting = [(value.node, False) for value in values][::-1]
        while waiting:
            node_id, is_ready = waiting.pop()
            node = self.nodes[node_id]
            if is_ready:
                found.setdefault(node_id, node)
            elif node_id not in found:
                waiting.append((node_id, True))
                waiting += [(v.node, False) for v in node.inputs.values() if v.node not in found]
        return tuple(found.values())

    def users(self) -> dict[NodeId, list[Node]]:
        """Return, per node, the nodes that read it."""
        users: dict[NodeId, list[Node]] = {node.id: [] for node in self}
        for node in self:
            for maker in {value.node for value in node.inputs.values()}:
                users[maker].append(node)
        return users

    def verify(self) -> None:
        """Check order, keys and edges once more; passes are verified with it in tests.

        Raises:
            PlanError: An invariant is broken; the message names the node.
        """
        seen: set[NodeId] = set()
        for node in self:
            for port, value in node.inputs.items():
                if value.node not in seen or value.port not in self.nodes[value.node].types:
                    raise PlanError.of(
                        "T0204", f"{node.address} reads {value} as {port}, which nothing makes"
                    )
            expected = plan_key(node.op, node.version, node.params, node.inputs, node.scope)
            if node.key != expected:
                raise PlanError.of(
                    "T0204", f"{node.address} has key {node.key}, its contents say {expected}"
                )
            seen.add(node.id)
        for name, value in self.outputs.items():
            if value.node not in seen:
                raise PlanError.of("T0204", f"output {name} is {value}, which nothing makes")


class Draft:
    """A graph in the making. Adding equal work twice gives the same value and joins the notes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._nodes: dict[NodeId, Node] = {}
        self._addresses: dict[NodeId, set[str]] = {}
        self._sites: dict[NodeId, set[Site]] = {}

    def add(
        self,
        op: Op,
        inputs: Mapping[str, Value] | None = None,
        *,
        rows: str = CONSTANT_ROWS,
        scope: str = "",
        address: str = "",
        sites: Collection[Site] = (),
    ) -> Value:
        """Use ``op`` on ``inputs`` and return its first output.

        Args:
            op: The op, with its parameters.
            inputs: A value for each port of its signature.
            rows: Row set, for ops that make one (``Rows.READ``); derived otherwise.
            scope: Name of a device op's parameters.
            address: Where the node stands, for people.
            sites: Places in instructions that ask for it.

        Raises:
            TypeMismatchError: An edge's ends differ, or inputs carry different row sets.
            PlanError: A port has no value, or a value has no port, or the op is not in the catalogue.
        """
        inputs = dict(inputs or {})
        if self.catalogue.get(op.traits.name) is not type(op):
            raise PlanError.of("T0205", f'op "{op.traits.name}" is not in the catalogue')
        try:
            types = self._check(op, inputs, rows, address)
        except PlanError as error:
            raise error.at(address=address, sites=tuple(sites)) from None
        params = parameters(op)
        key = plan_key(op.traits.name, op.traits.version, params, inputs, scope)
        first_port, first_type = next(iter(types.items()))
        node = NodeId(key, first_type.rows)
        if node not in self._nodes:
            self._nodes[node] = Node(
                id=node,
                op=op.traits.name,
                version=op.traits.version,
                params=params,
                inputs=inputs,
                types=types,
                scope=scope,
            )
        self._addresses.setdefault(node, set()).update([address] if address else [])
        self._sites.setdefault(node, set()).update(sites)
        return Value(node, first_port)

    def type_of(self, value: Value) -> Type:
        """Return the type of ``value``."""
        return self._nodes[value.node].types[value.port]

    def node(self, value: Value) -> Node:
        """Return the node that makes ``value``."""
        return self._nodes[value.node]

    def note(self, node: NodeId) -> Note:
        """Return the addresses and sites gathered so far for ``node``."""
        return Note(frozenset(self._addresses.get(node, ())), frozenset(self._sites.get(node, ())))

    def join_note(self, value: Value, note: Note) -> None:
        """Add the addresses and sites of ``note`` to the node that makes ``value``."""
        self._addresses.setdefault(value.node, set()).update(note.addresses)
        self._sites.setdefault(value.node, set()).update(note.sites)

    def graph(self, outputs: Mapping[str, Value]) -> Graph:
        """Return all nodes so far as a graph that gives ``outputs``."""
        nodes = {i: replace(node, note=self.note(i)) for i, node in self._nodes.items()}
        return Graph(nodes, dict(outputs))

    def _check(
        self, op: Op, inputs: Mapping[str, Value], rows: str, address: str
    ) -> dict[str, Type]:
        signature = op.signature
        _check_bound(op, inputs)
        sizes: dict[str, int | str] = {}
        for name, value in inputs.items():
            port = signature.inputs.get(name, signature.variadic)
            if port is None:
                raise PlanError.of("T0204", f"{op.traits.name} has no port {name}")
            given = self.type_of(value)
            if wrong := unify(port, given, sizes):
                raise mismatch(f'{op.traits.name} cannot read "{name}"', port, given, wrong)
        rows = self._rows(op, inputs, rows, address)
        is_const = op.traits.rows is Rows.FIT or (
            rows == CONSTANT_ROWS and op.traits.rows is Rows.SAME
        )
        return {
            name: Type(
                port.kind,
                port.dtype,
                tuple(
                    sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in port.shape
                ),
                Layout.CONST if is_const and op.traits.place == "host" else port.layout,
                op.traits.place,
                rows,
            )
            for name, port in signature.outputs.items()
        }

    def _rows(self, op: Op, inputs: Mapping[str, Value], rows: str, address: str) -> str:
        if op.traits.rows is Rows.READ:
            return rows
        if op.traits.rows is Rows.FIT:
            return CONSTANT_ROWS
        if op.traits.rows is Rows.JOIN:
            return PACK_ROWS
        found = {name: r for name, value in inputs.items() if (r := self.type_of(value).rows)}
        if len(set(found.values())) > 1:
            sides = "\n".join(f"{name} carries the rows of {r}" for name, r in found.items())
            raise PlanError(
                Problem(
                    "T0206",
                    f"{op.traits.name} cannot join different row sets",
                    sides,
                    address=address,
                )
            )
        return next(iter(found.values()), CONSTANT_ROWS)


def plan_key(
    op: str, version: int, params: Mapping[str, Plain], inputs: Mapping[str, Value], scope: str = ""
) -> str:
    """Return the digest that identifies a node's work: 32 hexadecimal digits."""
    read = [[port, value.node.key, value.port] for port, value in inputs.items()]
    content = [KEY_SCHEMA, op, version, params, read, scope]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def _check_bound(op: Op, inputs: Mapping[str, Value]) -> None:
    wanted = {name for name, port in op.signature.inputs.items() if not port.is_optional}
    if missing := sorted(wanted - inputs.keys()):
        raise PlanError.of("T0204", f"{op.traits.name} is left without {', '.join(missing)}")
