"""Verify: check a graph as strictly as a draft checks what is added to it.

Order, keys and edges follow from the graph alone. Types and parameters need the ops: they are derived anew
through the ops' signatures, and must be those that the nodes say.
"""

from __future__ import annotations

from collections.abc import Mapping

from .edge import derive_types
from .errors import PlanError, TaskloomError
from .node import Node, NodeId, Value, plan_key
from .op import Catalogue, parameters

UNKNOWN: Mapping[NodeId, Node] = {}


def verify_nodes(
    nodes: Mapping[NodeId, Node],
    outputs: Mapping[str, Value],
    catalogue: Catalogue | None = None,
    known: Mapping[NodeId, Node] = UNKNOWN,
) -> None:
    """Check the graph of ``nodes`` that gives ``outputs``.

    Args:
        nodes: The nodes in order.
        outputs: What is wanted of them.
        catalogue: The ops; without them parameters and types are believed.
        known: Nodes that were verified before, with all that they read; they are not derived again.

    Raises:
        PlanError: An invariant is broken; the problem names the node.
    """
    seen: dict[NodeId, Node] = {}
    for node_id, node in nodes.items():
        try:
            if node_id != node.id:
                raise PlanError.of("T0204", f"{node.id} is entered as {node_id}")
            _check_read(node, seen)
            if known.get(node_id) is not node:
                _check_key(node)
                if catalogue is not None:
                    _check_types(node, seen, catalogue)
        except TaskloomError as error:
            raise error.at(address=node.address, sites=tuple(sorted(node.note.sites))) from None
        seen[node_id] = node
    for name, value in outputs.items():
        if value.node not in seen or value.port not in seen[value.node].types:
            raise PlanError.of("T0204", f'output "{name}" is {value}, which nothing makes')


def _check_read(node: Node, seen: Mapping[NodeId, Node]) -> None:
    for port, value in node.inputs.items():
        maker = seen.get(value.node)
        if maker is None or value.port not in maker.types:
            message = f"{node.address} reads {value} as {port}, which nothing makes"
            raise PlanError.of("T0204", message, "a node stands after all that it reads")


def _check_key(node: Node) -> None:
    rows = node.id.rows
    expected = plan_key(node.op, node.version, node.params, node.inputs, node.scope, rows)
    if node.key != expected:
        message = f"{node.address} has key {node.key}, its contents say {expected}"
        raise PlanError.of("T0204", message)


def _check_types(node: Node, seen: Mapping[NodeId, Node], catalogue: Catalogue) -> None:
    if node.op not in catalogue:
        raise PlanError.of("T0205", f'op "{node.op}" is not in the catalogue')
    try:
        op = catalogue[node.op](**node.params)
    except TypeError:
        message = f"{node.op} has no parameters {', '.join(node.params) or '(none)'}"
        raise PlanError.of("T0204", message) from None
    if op.traits.version != node.version:
        message = f"{node.op} has version {op.traits.version}, {node.address} says {node.version}"
        raise PlanError.of("T0205", message)
    if (params := parameters(op)) != node.params:
        message = f"{node.address} has parameters {node.params}, {node.op} makes them {params}"
        raise PlanError.of("T0204", message)
    given = {port: seen[value.node].types[value.port] for port, value in node.inputs.items()}
    types = derive_types(op, given, key=node.key, rows=node.id.rows)
    for port in {**types, **node.types}:
        says, gives = node.types.get(port), types.get(port)
        if says != gives:
            message = f"{node.address} says that {port} is {says}"
            raise PlanError.of("T0201", message, f"{node.op} gives {gives or 'no such output'}")
    rows = next(iter(types.values())).rows
    if node.id.rows != rows:
        raise PlanError.of("T0206", f"{node.id} carries the rows of {rows or 'a constant'}")
