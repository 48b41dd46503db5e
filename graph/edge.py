"""Edges: what an op may read, and the types of what it then gives.

The rules hold wherever a node comes from: a draft checks with them as a node is added, and a graph that was
read or rewritten is verified with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .errors import PlanError, Problem
from .op import Op, Rows
from .type import (
    CONSTANT_ROWS,
    Layout,
    Place,
    Signature,
    Type,
    expand_rows,
    mismatch,
    parent_rows,
    unify,
)

PACK_ROWS = "pack"

Refuse = Callable[[Mapping[str, str]], PlanError]
"""Returns the error for row sets that do not go together, given by port."""


def carried_rows(op: Op, given: Mapping[str, Type], rows: str = CONSTANT_ROWS) -> str:
    """Return the rows that ``op`` hands on, or makes what it gives of; a fit or a pack ends those it reads."""
    match op.traits.rows:
        case Rows.READ:
            return rows
        case Rows.FIT:
            return CONSTANT_ROWS
        case Rows.JOIN:
            return PACK_ROWS
        case _:
            return next((type_.rows for type_ in given.values() if type_.rows), CONSTANT_ROWS)


def derive_types(
    op: Op,
    given: Mapping[str, Type],
    *,
    key: str,
    rows: str = CONSTANT_ROWS,
    refuse: Refuse | None = None,
) -> dict[str, Type]:
    """Return the type of each output of ``op``.

    Args:
        op: The op, with its parameters.
        given: The type of what feeds each port.
        key: The node's plan key, after which items are named.
        rows: Row set, for ops that make one (``Rows.READ``); derived otherwise.
        refuse: Makes the error for row sets that do not go together, for who can say more of them.

    Raises:
        TypeMismatchError: An edge's ends differ.
        PlanError: A port has no value, or a value has no port, or inputs carry row sets that do not go
            together.
    """
    signature, traits = op.signature, op.traits
    sizes = _check_edges(op, signature, given)
    found = {name: type_.rows for name, type_ in given.items() if type_.rows}
    its_rows = _derive_rows(op, found, carried_rows(op, given, rows), key)
    if its_rows is None:
        message = f"{traits.name} cannot join different row sets"
        sides = "\n".join(f"{name} carries the rows of {r}" for name, r in found.items())
        raise refuse(found) if refuse else PlanError(Problem("T0206", message, sides))
    is_const = traits.rows is Rows.FIT or (its_rows == CONSTANT_ROWS and traits.rows is Rows.SAME)
    return {
        name: Type(
            port.kind,
            port.dtype,
            tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in port.shape),
            Layout.CONST if is_const and traits.place is Place.HOST else port.layout,
            traits.place,
            its_rows,
        )
        for name, port in signature.outputs.items()
    }


def _check_edges(op: Op, signature: Signature, given: Mapping[str, Type]) -> dict[str, int | str]:
    """Check both ends of every edge into ``op``; return what its named dimensions stand for."""
    name, place = op.traits.name, op.traits.place
    wanted = {port_name for port_name, port in signature.inputs.items() if not port.is_optional}
    if missing := sorted(wanted - given.keys()):
        raise PlanError.of("T0204", f"{name} is left without {', '.join(missing)}")
    sizes: dict[str, int | str] = {}
    for port_name, type_ in given.items():
        port = signature.inputs.get(port_name, signature.variadic)
        if port is None:
            raise PlanError.of("T0204", f'{name} has no port "{port_name}"')
        if wrong := unify(port, type_, place, sizes):
            raise mismatch(f'{name} cannot read "{port_name}"', port, type_, place, wrong)
    return sizes


def _derive_rows(op: Op, found: Mapping[str, str], carried: str, key: str) -> str | None:
    """Return the row set of what ``op`` gives, None where those of its inputs do not go together."""
    kind, sets = op.traits.rows, set(found.values())
    if kind in (Rows.READ, Rows.FIT, Rows.JOIN):
        return carried
    if len(sets) > 1:
        items = max(sets, key=len)
        if kind not in (Rows.REPEAT, Rows.GROUP) or sets != {items, parent_rows(items)}:
            return None
        carried = items
    if kind is Rows.GROUP:
        return parent_rows(carried)
    return expand_rows(carried, key) if kind is Rows.EXPAND else carried
