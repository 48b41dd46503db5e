"""A graph in the making: every edge is checked as its node is added, and equal work is added once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from .errors import PlanError, Problem, Site
from .graph import Graph
from .node import Node, NodeId, Note, Value, plan_key
from .op import Catalogue, Op, Rows, parameters
from .type import CONSTANT_ROWS, Layout, Type, mismatch, unify

PACK_ROWS = "pack"


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
                raise PlanError.of("T0204", f'{op.traits.name} has no port "{name}"')
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


def _check_bound(op: Op, inputs: Mapping[str, Value]) -> None:
    wanted = {name for name, port in op.signature.inputs.items() if not port.is_optional}
    if missing := sorted(wanted - inputs.keys()):
        raise PlanError.of("T0204", f"{op.traits.name} is left without {', '.join(missing)}")
