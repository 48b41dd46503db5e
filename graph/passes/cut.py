"""Cut: decide where and when each node runs, and which values are stored in between.

Deterministic host nodes run *offline*, once. Random ones, what follows them, and the composing and packing of
documents run *online*, in every epoch. Device nodes form the program. Values that cross from offline to online
are stored as columns; constants never are.

The cut weighs bytes: where a cheap op makes a larger value of a smaller one, as a cast of pixels to floats
does, the smaller one is stored and the op runs online. ``persist`` overrides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..errors import PlanError, Problem, suggest
from ..graph import Graph
from ..node import Node, NodeId, Value
from ..op import Catalogue, Rows
from ..type import Layout, Place
from .weigh import Size, weigh


class Stage(StrEnum):
    """When a node runs."""

    OFFLINE = "offline"
    ONLINE = "online"
    DEVICE = "device"


NO_ROWS: Final[Mapping[str, int]] = {}
NO_SIZES: Final[Mapping[Value, Size]] = {}


@dataclass(frozen=True, slots=True)
class Cut:
    """The result of cutting a graph.

    Attributes:
        stages: The stage of every node.
        stored: The values that are stored, each with the reason.
        sizes: What a row of each stored value takes, as far as its type says, and its dtype.
    """

    stages: Mapping[NodeId, Stage]
    stored: Mapping[Value, str]
    sizes: Mapping[Value, tuple[Size, str]]

    def reasons(
        self, rows: Mapping[str, int] = NO_ROWS, measured: Mapping[Value, Size] = NO_SIZES
    ) -> dict[Value, str]:
        """Return why each stored value is stored, with the bytes it takes.

        Args:
            rows: The number of rows of each source, where it is known.
            measured: What a row takes in a store, where somebody looked.
        """
        told: dict[Value, str] = {}
        for value, why in self.stored.items():
            size, dtype = self.sizes[value]
            bytes_ = measured.get(value, size).tell(dtype, rows.get(value.node.rows))
            told[value] = f"{why}; {bytes_}"
        return told


def cut(graph: Graph, catalogue: Catalogue, persist: Collection[str] = ()) -> Cut:
    """Return the stages of ``graph``'s nodes and the values to store.

    Args:
        graph: The graph.
        catalogue: The ops, for their traits.
        persist: Addresses whose values are stored although nothing online reads them, or although the cut
            would rather store what they are made of.

    Raises:
        PlanError: ``persist`` names a node that does not run offline (T0214), or one that draws anew in every
            epoch is to be stored or learned from (T0242).
    """
    stages: dict[NodeId, Stage] = {}
    for node in graph:
        stages[node.id] = _stage(node, graph, catalogue, stages)
    persisted = [_persisted(address, graph, catalogue, stages) for address in persist]
    _put_off(graph, catalogue, stages, {value.node for value in persisted})
    stored: dict[Value, str] = {}
    for node in graph:
        if stages[node.id] is Stage.OFFLINE:
            continue
        for value in node.inputs.values():
            is_const = graph.type_of(value).layout is Layout.CONST
            if stages[value.node] is Stage.OFFLINE and not is_const:
                stored.setdefault(value, _reason(node, graph, catalogue))
    for value in persisted:
        stored.setdefault(value, "asked for by persist")
    types = {value: graph.type_of(value) for value in stored}
    return Cut(stages, stored, {value: (weigh(t), t.dtype) for value, t in types.items()})


def _stage(node: Node, graph: Graph, catalogue: Catalogue, stages: Mapping[NodeId, Stage]) -> Stage:
    traits = catalogue[node.op].traits
    if traits.place is Place.DEVICE:
        return Stage.DEVICE
    online = [v for v in node.inputs.values() if stages[v.node] is Stage.ONLINE]
    if online and traits.rows is Rows.FIT:
        maker = graph.nodes[online[0].node].address
        raise _refuse(node, f"{node.address} learns from {maker}, which is made in every epoch")
    if online or traits.is_random or traits.is_online:
        return Stage.ONLINE
    return Stage.OFFLINE


def _persisted(
    address: str, graph: Graph, catalogue: Catalogue, stages: Mapping[NodeId, Stage]
) -> Value:
    """Return the value at ``address``, which must be one that can be stored."""
    node = graph[address]
    if stages[node.id] is Stage.OFFLINE and node.id.rows:
        return Value(node.id, next(iter(node.types)))
    if any(catalogue[n.op].traits.is_random for n in graph.needs([Value(node.id)])):
        raise _refuse(node, f'"{address}" is drawn anew in every epoch, so it cannot be stored')
    known = {n.address for n in graph if stages[n.id] is Stage.OFFLINE and n.id.rows}
    message = f'"{address}" does not run offline, so it cannot be stored'
    raise PlanError.of("T0214", message, suggest(address, known))


def _refuse(node: Node, message: str) -> PlanError:
    help_ = "store what it is made of, which is the same in every epoch"
    sites = tuple(sorted(node.note.sites))
    return PlanError(Problem("T0242", message, help_, sites, address=node.address))


def _put_off(
    graph: Graph, catalogue: Catalogue, stages: dict[NodeId, Stage], kept: Collection[NodeId]
) -> None:
    """Move cheap nodes online that make more bytes of less, unless something offline reads them."""
    users = graph.users()
    results = {value.node for value in graph.outputs.values()}
    for node in [*graph][::-1]:
        if (
            stages[node.id] is Stage.OFFLINE
            and catalogue[node.op].traits.is_cheap
            and node.id not in results
            and node.id not in kept
            and users[node.id]
            and all(stages[user.id] is Stage.ONLINE for user in users[node.id])
            and _grows(node, graph)
        ):
            stages[node.id] = Stage.ONLINE


def _grows(node: Node, graph: Graph) -> bool:
    """Return whether what ``node`` gives takes more bytes than what it reads."""
    read = [graph.type_of(value) for value in set(node.inputs.values()) if value.node.rows]
    given = sum(weigh(type_).row_bytes for type_ in node.types.values())
    return bool(read) and given > sum(weigh(type_).row_bytes for type_ in read)


def _reason(reader: Node, graph: Graph, catalogue: Catalogue) -> str:
    """Say why what ``reader`` reads is stored."""
    traits = catalogue[reader.op].traits
    if traits.is_random:
        return f"{reader.op} draws anew in every epoch"
    if traits.is_cheap and not traits.is_online:
        size = sum(weigh(graph.type_of(Value(reader.id, port))).row_bytes for port in reader.types)
        return f"{reader.op} makes {size:,.0f} bytes of it, cheaply, in every epoch"
    return "the loader reads it"
