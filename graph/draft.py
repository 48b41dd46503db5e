"""A graph in the making: every edge is checked as its node is added, and equal work is added once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from .edge import carried_rows, derive_types
from .errors import PlanError, Problem, Site
from .graph import Graph
from .node import Node, NodeId, Note, Value, plan_key, rekey
from .op import Catalogue, Op, parameters, scalars
from .type import CONSTANT_ROWS, Type, expand_rows, parent_rows


class Draft:
    """A graph in the making. Adding equal work twice gives the same value and joins the notes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._nodes: dict[NodeId, Node] = {}
        self._made: dict[tuple[object, ...], Value] = {}
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
        # Most work is asked for by many tasks, and checked and digested for the first of them.
        given = scalars(op)
        work = (type(op), given, rows, scope, *inputs.items())
        if given is None or (value := self._made.get(work)) is None:
            value = self._make(op, inputs, rows=rows, scope=scope, place=(address, tuple(sites)))
            if given is not None:
                self._made[work] = value
        if address:
            self._addresses.setdefault(value.node, set()).add(address)
        if sites:
            self._sites.setdefault(value.node, set()).update(sites)
        return value

    def _make(
        self,
        op: Op,
        inputs: Mapping[str, Value],
        *,
        rows: str,
        scope: str,
        place: tuple[str, tuple[Site, ...]],
    ) -> Value:
        traits = op.traits
        if self.catalogue.get(traits.name) is not type(op):
            raise PlanError.of("T0205", f'op "{traits.name}" is not in the catalogue')
        try:
            params = parameters(op)
            given = {port: self.type_of(value) for port, value in inputs.items()}
            carried = carried_rows(op, given, rows)
            key = plan_key(traits.name, traits.version, params, inputs, scope, carried)
            refuse = partial(self._refuse_rows, op, inputs)
            types = derive_types(op, given, key=key, rows=rows, refuse=refuse)
        except PlanError as error:
            address, sites = place
            raise error.at(address=address, sites=sites) from None
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

    def substitute(self, values: Mapping[Value, Value]) -> dict[Value, Value]:
        """Put other values in the place of stand-ins, whose nodes vanish.

        Args:
            values: What takes the place of the only output of each stand-in; it is of the same type.

        Returns:
            The value that each value has become, where it is another: readers, and what follows them, get
            other keys.
        """
        became = dict(values)
        for stand_in in values:
            self._nodes.pop(stand_in.node)
        rows: dict[str, str] = {}
        for old in [*self._nodes.values()]:
            if any(value in became for value in old.inputs.values()):
                inputs = {port: became.get(value, value) for port, value in old.inputs.items()}
                new = rekey(old, inputs, rows)
                # At the end, behind what it now reads.
                self._nodes.pop(old.id)
                self._nodes.setdefault(new.id, new)
                self.join_note(Value(new.id), self.note(old.id))
                became |= {Value(old.id, port): Value(new.id, port) for port in old.types}
        self._made.clear()
        return became

    def graph(self, outputs: Mapping[str, Value]) -> Graph:
        """Return all nodes so far as a graph that gives ``outputs``."""
        nodes = {i: node.with_note(self.note(i)) for i, node in self._nodes.items()}
        return Graph(nodes, dict(outputs))

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
