"""From the documents of a plan to what the loader and the decoder need of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ...graph.errors import PlanError
from ...graph.node import Node, Value
from ...graph.type import source_of
from ...storage.template import (
    ConstPiece,
    GroupPiece,
    IdsPiece,
    Lesson,
    Piece,
    Single,
    Template,
    TensorPiece,
)
from .planning import Plan


def make_templates(plan: Plan, task: str) -> tuple[Template, ...]:
    """Return what the loader composes the documents of ``task`` of: one for each of its templates.

    A target that is to be written holds only what comes before its first slot.

    Raises:
        PlanError: Some constant is not known yet, because what it needs is still to be fitted.
    """
    templates = plan.templates(task)
    return tuple(
        _make_template(plan, task, nodes, (number, len(templates)))
        for number, nodes in enumerate(templates)
    )


def _make_template(
    plan: Plan, task: str, nodes: Sequence[Node], place: tuple[int, int]
) -> Template:
    """Return a template from its document, or from the two halves of its pair."""
    source = [tuple(_Pieces(plan, task, node).read("source")) for node in nodes]
    pair = None
    if len(nodes) > 1:
        halves: list[Any] = [node.params["source"] for node in nodes]
        slots = "|".join(entry["slot"] for half in halves for entry in half if "slot" in entry)
        pair = (len(source[0]), Lesson(plan.scored.index((task, slots))))
    return Template(
        task=task,
        source_name=source_of(nodes[0].id.rows),
        source=tuple(piece for half in source for piece in half),
        target=tuple(_Pieces(plan, task, nodes[0]).read("target")),
        pair=pair,
        number=place[0],
        num_templates=place[1],
    )


@dataclass(slots=True)
class _Pieces:
    """Reads the sides of one document."""

    plan: Plan
    task: str
    document: Node
    _lesson: Lesson | None = field(default=None)
    _is_begun: bool = False

    def read(self, side: str) -> Iterator[Piece]:
        """Yield the pieces of a side, in order."""
        entries: Any = self.document.params[side]
        for entry in entries:
            if "special" in entry:
                # The first id of a target is given. Its end belongs to the slot before it.
                lesson = self._lesson if side == "target" and self._is_begun else None
                yield ConstPiece(ids=(entry["special"],), lesson=lesson)
            elif "group" in entry:
                maker = self.plan.graph.nodes[self.document.inputs[entry["port"]].node]
                if "count" not in maker.inputs:
                    return  # the group is to be written, and so is what follows it
                yield self._group(maker, side)
            elif "port" in entry:
                yield self._single(self.document, entry, side)
            else:
                return  # the slot is to be written, and so is what follows it
            self._is_begun = True

    def _group(self, node: Node, side: str) -> GroupPiece:
        entries: Any = node.params["items"]
        return GroupPiece(
            count=node.inputs["count"].column_id,
            pieces=tuple(
                ConstPiece(ids=(entry["special"],))
                if "special" in entry
                else self._single(node, entry, side)
                for entry in entries
            ),
        )

    def _single(self, node: Node, entry: Mapping[str, Any], side: str) -> Single:
        plan, value = self.plan, node.inputs[entry["port"]]
        if "lane" in entry:
            self._refuse_unknown(value)
            return TensorPiece(
                column=plan.column_of(self.task, value), lane=entry["lane"], length=entry["length"]
            )
        offset = plan.vocabulary.offset(entry["block"])
        lesson = self._learn(entry) if side == "target" else None
        maker = plan.graph.nodes[value.node]
        if maker.op == "make_ids":
            ids: Any = maker.params["ids"]
            return ConstPiece(ids=tuple(offset + i for i in ids))
        self._refuse_unknown(value)
        return IdsPiece(column=plan.column_of(self.task, value), offset=offset, lesson=lesson)

    def _learn(self, entry: Mapping[str, Any]) -> Lesson | None:
        """Return what is learned from a slot; what is not learned leaves the end to the slot before."""
        if not (weight := entry.get("weight", 1.0)) or "slot" not in entry:
            return None
        number = self.plan.scored.index((self.task, entry["slot"]))
        self._lesson = Lesson(number, weight)
        return self._lesson

    def _refuse_unknown(self, value: Value) -> None:
        maker = self.plan.graph.nodes[value.node]
        if not value.node.rows:
            message = f"{maker.address} is not known yet"
            help_ = "build the store first: its vocabulary is fitted there"
            raise PlanError.of("T0238", message, help_)


def column_dtypes(schema: pa.Schema) -> dict[str, str]:
    """Return the element type of every column of a source, as the graph spells it."""
    return {field.name: str(field.type) for field in schema}
