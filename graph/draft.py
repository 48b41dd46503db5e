"""A graph in the making: every edge is checked as its node is added, and equal work is added once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from .errors import PlanError, Problem, Site
from .graph import Graph
from .node import Node, NodeId, Note, Value, plan_key
from .op import Catalogue, Op, Rows, parameters
from .type import CONSTANT_ROWS, Layout, Type, expand_rows, mismatch, parent_rows, unify

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
            TypeMismatchError: An edge's ends differ.
            PlanError: A port has no value, or a value has no port, or the op is not in the catalogue, or
                inputs carry row sets that do not go together.
        """
        inputs = dict(inputs or {})
        traits = op.traits
        if self.catalogue.get(traits.name) is not type(op):
            raise PlanError.of("T0205", f'op "{traits.name}" is not in the catalogue')
        try:
            params = parameters(op)
            key = plan_key(traits.name, traits.version, params, inputs, scope)
            sizes = self._check_edges(op, inputs)
            types = _make_types(op, self._rows(op, inputs, rows, key), sizes)
        except PlanError as error:
            raise error.at(address=address, sites=tuple(sites)) from None
        first_port, first_type = next(iter(types.items()))
        node = NodeId(key, first_type.rows)
        if node not in self._nodes:
            self._nodes[node] = Node(
                id=node,
                op=traits.name,
                version=traits.version,
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

    def _check_edges(self, op: Op, inputs: Mapping[str, Value]) -> dict[str, int | str]:
        """Check both ends of every edge into ``op``; return what its named dimensions stand for."""
        signature = op.signature
        _check_bound(op, inputs)
        sizes: dict[str, int | str] = {}
        for name, value in inputs.items():
            port = signature.inputs.get(name, signature.variadic)
            if port is None:
                raise PlanError.of("T0204", f'{op.traits.name} has no port "{name}"')
            given, place = self.type_of(value), op.traits.place
            if wrong := unify(port, given, place, sizes):
                what = f'{op.traits.name} cannot read "{name}"'
                raise mismatch(what, port, given, place, wrong)
        return sizes

    def _rows(self, op: Op, inputs: Mapping[str, Value], rows: str, key: str) -> str:
        """Return the row set of what ``op`` gives.

        Raises:
            PlanError: ``inputs`` carry row sets that do not go together.
        """
        kind = op.traits.rows
        if kind is Rows.READ:
            return rows
        if kind is Rows.FIT:
            return CONSTANT_ROWS
        if kind is Rows.JOIN:
            return PACK_ROWS
        found = {name: r for name, value in inputs.items() if (r := value.node.rows)}
        sets = set(found.values())
        if kind in (Rows.REPEAT, Rows.GROUP) and len(sets) > 1:
            items = max(sets, key=len)
            if sets == {items, parent_rows(items)}:
                return items if kind is Rows.REPEAT else parent_rows(items)
        if len(sets) > 1:
            raise self._refuse_rows(op, inputs, found)
        one = next(iter(sets), CONSTANT_ROWS)
        if kind is Rows.GROUP:
            return parent_rows(one)
        return expand_rows(one, key) if kind is Rows.EXPAND else one

    def _refuse_rows(
        self, op: Op, inputs: Mapping[str, Value], found: Mapping[str, str]
    ) -> PlanError:
        told = [
            f"{name} ({self._call(inputs[name].node)}) carries {self._describe(rows)}"
            for name, rows in found.items()
        ]
        help_ = "group what was expanded before it meets the rows that it was made of"
        sites = [site for name in found for site in sorted(self.note(inputs[name].node).sites)[:1]]
        message = f"{op.traits.name} cannot join different row sets"
        problem = Problem("T0206", message, "\n".join([*told, help_]), tuple(dict.fromkeys(sites)))
        return PlanError(problem)

    def _describe(self, rows: str) -> str:
        """Return ``rows`` in words, with the node that made them."""
        if (parent := parent_rows(rows)) == rows:
            return f'the rows of "{rows}"'
        maker = next(
            node
            for node in self._nodes
            if node.rows == rows and expand_rows(parent, node.key) == rows
        )
        return f"the items that {self._call(maker)} makes of {self._describe(parent)}"

    def _call(self, node: NodeId) -> str:
        return self.note(node).address or self._nodes[node].op


def _make_types(op: Op, rows: str, sizes: Mapping[str, int | str]) -> dict[str, Type]:
    """Return the types of what ``op`` gives over ``rows``."""
    is_const = op.traits.rows is Rows.FIT or (rows == CONSTANT_ROWS and op.traits.rows is Rows.SAME)
    return {
        name: Type(
            port.kind,
            port.dtype,
            tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in port.shape),
            Layout.CONST if is_const and op.traits.place == "host" else port.layout,
            op.traits.place,
            rows,
        )
        for name, port in op.signature.outputs.items()
    }


def _check_bound(op: Op, inputs: Mapping[str, Value]) -> None:
    wanted = {name for name, port in op.signature.inputs.items() if not port.is_optional}
    if missing := sorted(wanted - inputs.keys()):
        raise PlanError.of("T0204", f"{op.traits.name} is left without {', '.join(missing)}")
