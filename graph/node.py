"""Nodes: uses of ops, and the values that they make.

A *node* is one use of an op; a *value* is one output of a node. The *plan key* of a node digests op, version,
parameters and the keys of its inputs: no data and no names; and of row sets only those that end in the node,
because a fit or a pack over other rows is other work. Names live in *notes*: the addresses and the places in
instructions that a node stands for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .errors import Site
from .op import Plain
from .type import CONSTANT_ROWS, Type, expand_rows, parent_rows, source_of

KEY_SCHEMA = 1
KEY_LENGTH = 32


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

    def address_in(self, task: str) -> str:
        """The first address in ``task``, or of all where none is in it."""
        mine = (a for a in self.addresses if a.startswith((f"{task}.", f"{task}/")))
        return min(mine, default=self.address)

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

    def with_note(self, note: Note) -> Node:
        """Return the same node with another note."""
        return Node(
            id=self.id,
            op=self.op,
            version=self.version,
            params=self.params,
            inputs=self.inputs,
            types=self.types,
            scope=self.scope,
            note=note,
        )

    @property
    def type(self) -> Type:
        """The type of a node's only output."""
        (only,) = self.types.values()
        return only


_write = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def plan_key(
    op: str,
    version: int,
    params: Mapping[str, Plain],
    inputs: Mapping[str, Value],
    scope: str = "",
    rows: str = CONSTANT_ROWS,
) -> str:
    """Return the digest that identifies a node's work: 32 hexadecimal digits.

    The order of ``inputs`` is in no key. Values over rows of another source than ``rows``, those of the node
    itself or what they were made of, are read with the name of theirs.
    """
    ours = {CONSTANT_ROWS, source_of(rows)}
    read = sorted(
        [
            [port, value.node.key, value.port, *([theirs] if source_of(theirs) not in ours else [])]
            for port, value in inputs.items()
            for theirs in [value.node.rows]
        ]
    )
    content = _write([KEY_SCHEMA, op, version, params, read, scope])
    return hashlib.sha256(content.encode()).hexdigest()[:KEY_LENGTH]


def rekey(node: Node, inputs: Mapping[str, Value], rows: dict[str, str]) -> Node:
    """Return ``node`` reading ``inputs`` of the types that it read before, with the key that it then has.

    Items are named after the key of the node that makes them: ``rows`` says what row sets have become, and is
    told where ``node`` makes one.
    """
    ours, parent = node.id.rows, parent_rows(node.id.rows)
    makes_items = ours != parent and ours == expand_rows(parent, node.key)
    now = rows.get(parent, parent) if makes_items else rows.get(ours, ours)
    key = plan_key(node.op, node.version, node.params, inputs, node.scope, now)
    if makes_items:
        now = rows[ours] = expand_rows(now, key)
    types = node.types
    if now != ours:
        types = {port: replace(type_, rows=now) for port, type_ in types.items()}
    return replace(node, id=NodeId(key, now), inputs=inputs, types=types)
