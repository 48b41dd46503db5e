"""From the documents of a plan to what the loader and the decoder need of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from ..graph.errors import PlanError
from ..graph.node import Node
from ..storage.template import ConstPiece, IdsPiece, Piece, Template, TensorPiece
from .planning import Plan


def make_template(plan: Plan, task: str) -> Template:
    """Return what the loader composes the documents of ``task`` of.

    A target that is to be written holds only what comes before its slot.

    Raises:
        PlanError: Some constant is not known yet, because what it needs is still to be fitted.
    """
    node = plan.graph.nodes[plan.documents[task]]
    source = [piece for piece, _ in _pieces(plan, node, "source")]
    target = list(_pieces(plan, node, "target"))
    return Template(
        task=task,
        source_name=node.id.rows,
        source=tuple(source),
        target=tuple(piece for piece, _ in target),
        # The first id is given, plain text is given; slots and the end are learned.
        is_learned=tuple(is_learned for _, is_learned in target),
    )


def target_slot(plan: Plan, task: str) -> Mapping[str, Any]:
    """Return the entry of the slot that ``task`` writes."""
    node = plan.graph.nodes[plan.documents[task]]
    entries: Any = node.params["target"]
    return next(entry for entry in entries if "slot" in entry)


def answers_digest(plan: Plan, task: str) -> str | None:
    """Return the digest of the closed set that ``task`` answers from, empty if nobody knows it.

    None where the target is free text.
    """
    entry = target_slot(plan, task)
    if "answers" not in entry:
        return None
    node = plan.graph.nodes[plan.documents[task]]
    return str(plan.graph.nodes[node.inputs[entry["answers"]].node].params["digest"])


def _pieces(plan: Plan, node: Node, side: str) -> Iterable[tuple[Piece, bool]]:
    entries: Any = node.params[side]
    is_begun = False
    for entry in entries:
        if "special" in entry:
            yield ConstPiece(ids=(entry["special"],)), is_begun
        elif "port" in entry:
            piece = _piece(plan, node, entry)
            yield piece, "slot" in entry
        else:
            return  # the slot is to be written, and so is what follows it
        is_begun = True


def _piece(plan: Plan, node: Node, entry: Mapping[str, Any]) -> Piece:
    value = node.inputs[entry["port"]]
    if "lane" in entry:
        return TensorPiece(column=value.column_id, lane=entry["lane"], length=entry["length"])
    offset = plan.vocabulary.offset(entry["block"])
    maker = plan.graph.nodes[value.node]
    if maker.op == "make_ids":
        ids: Any = maker.params["ids"]
        return ConstPiece(ids=tuple(offset + i for i in ids))
    if value.node.rows and value not in plan.cut.stored:
        message = f"{maker.address} draws anew in every epoch, which the loader cannot do yet"
        raise PlanError.of("T0237", message, "leave the op out, or run it in the source")
    if value.node.rows:
        return IdsPiece(column=value.column_id, offset=offset)
    message = f"{maker.address} is not known yet"
    raise PlanError.of("T0238", message, "build the store first: its vocabulary is fitted there")


def column_dtypes(schema: pa.Schema) -> dict[str, str]:
    """Return the element type of every column of a source, as the graph spells it."""
    return {field.name: str(field.type) for field in schema}
