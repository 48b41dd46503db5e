"""Cut: decide where and when each node runs, and which values are stored in between.

Deterministic host nodes run *offline*, once. Random ones, what follows them, and the composing and packing of
documents run *online*, in every epoch. Device nodes form the program. Values that cross from offline to online
are stored as columns; constants never are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ..errors import PlanError, suggest
from ..graph import Graph
from ..node import Node, NodeId, Value
from ..op import Catalogue
from ..type import Layout, Place, Type


class Stage(StrEnum):
    """When a node runs."""

    OFFLINE = "offline"
    ONLINE = "online"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Cut:
    """The result of cutting a graph.

    Attributes:
        stages: The stage of every node.
        stored: The values that are stored, each with the reason.
    """

    stages: Mapping[NodeId, Stage]
    stored: Mapping[Value, str]


def cut(graph: Graph, catalogue: Catalogue, persist: Collection[str] = ()) -> Cut:
    """Return the stages of ``graph``'s nodes and the values to store.

    Args:
        graph: The graph.
        catalogue: The ops, for their traits.
        persist: Addresses whose values are stored although nothing online reads them.

    Raises:
        PlanError: ``persist`` names a node that does not run offline.
    """
    stages: dict[NodeId, Stage] = {}
    for node in graph:
        stages[node.id] = _stage(node, catalogue, stages)
    stored: dict[Value, str] = {}
    for node in graph:
        if stages[node.id] is Stage.OFFLINE:
            continue
        for value in node.inputs.values():
            type_ = graph.type_of(value)
            if stages[value.node] is Stage.OFFLINE and type_.layout is not Layout.CONST:
                stored.setdefault(value, _reason(node, type_, catalogue))
    for address in persist:
        node = graph[address]
        if stages[node.id] is not Stage.OFFLINE or not node.id.rows:
            known = {n.address for n in graph if stages[n.id] is Stage.OFFLINE and n.id.rows}
            message = f'"{address}" does not run offline, so it cannot be stored'
            raise PlanError.of("T0214", message, suggest(address, known))
        stored.setdefault(Value(node.id), "asked for by persist")
    return Cut(stages, stored)


def _stage(node: Node, catalogue: Catalogue, stages: Mapping[NodeId, Stage]) -> Stage:
    traits = catalogue[node.op].traits
    if traits.place is Place.DEVICE:
        return Stage.DEVICE
    before = {stages[value.node] for value in node.inputs.values()}
    if traits.is_random or traits.is_online or Stage.ONLINE in before:
        return Stage.ONLINE
    return Stage.OFFLINE


def _reason(reader: Node, type_: Type, catalogue: Catalogue) -> str:
    """Say why the values that ``reader`` reads are stored, with the bytes a row of them takes."""
    if catalogue[reader.op].traits.is_random:
        why = f"{reader.op} draws anew in every epoch"
    else:
        why = "the loader reads it"
    row_bytes = type_.row_bytes
    return f"{why}; {row_bytes:,} bytes a row as {type_.dtype}" if row_bytes else why
