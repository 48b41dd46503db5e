"""One op that the loader runs in every epoch: what it is called with, and how long what it gives will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...graph.errors import PlanError, Problem
from ...graph.node import Node, Value
from ...graph.type import Layout
from ...ops.draw import Keys, digest_stream
from ..host.execute import Execution, make_still
from ..planner.planning import Plan

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One op of a segment.

    Attributes:
        node: The node.
        address: Its address in the task.
        op: The op.
        constants: Inputs that are the same for every row, by port.
        stream: Of the numbers that it draws.
        is_random: Whether it draws.
        needs_process: Whether it runs in worker processes.
        length_of: The value whose lengths say how long what it gives is; None for what is dense.
    """

    node: Node
    address: str
    op: Any
    constants: Mapping[str, Any]
    stream: int
    is_random: bool
    needs_process: bool
    length_of: Value | None

    @classmethod
    def make(cls, plan: Plan, task: str, node: Node, *, is_still: bool) -> Self:
        """Return the call of ``node``.

        Raises:
            PlanError: Nobody knows how long what it gives will be (T0237).
        """
        op: Any = plan.catalogue[node.op](**node.params)
        address = _address_in(node, task)
        return cls(
            node=node,
            address=address,
            op=make_still(op) if is_still else op,
            constants=_constants(plan, node),
            stream=digest_stream(task, address),
            is_random=op.traits.is_random and not is_still,
            needs_process=op.traits.needs_process,
            length_of=_find_length(plan, node, op),
        )

    @property
    def sites(self) -> tuple[Any, ...]:
        """Where the node stands in instructions."""
        return tuple(sorted(self.node.note.sites))

    def run(self, inputs: Mapping[str, Any], keys: Keys | None, rows: Ints | None) -> Any:
        """Return what the op makes of all rows, or of some."""
        if rows is not None:
            inputs = {port: _take(array, rows) for port, array in inputs.items()}
            keys = None if keys is None else keys[rows]
        drawn = {"keys": keys} if self.is_random else {}
        return self.op(**inputs, **self.constants, **drawn)

    def plan_lengths(self, lengths: Ints, keys: Keys | None) -> Ints:
        """Return how long what the op makes of rows of ``lengths`` is at most; in any pass without ``keys``."""
        if not self.is_random:
            return lengths
        return np.asarray(self.op.plan_lengths(lengths, keys=keys), np.int64)


def _find_length(plan: Plan, node: Node, op: Any) -> Value | None:
    """Return the input whose lengths say how long what ``node`` gives is; None if that is dense.

    Raises:
        PlanError: None does (T0237).
    """
    if node.type.layout is not Layout.RAGGED:
        return None
    rows = [value for value in node.inputs.values() if value.node.rows]
    ragged = [v for v in rows if plan.graph.type_of(v).layout is Layout.RAGGED]
    if op.traits.is_random and ragged:
        return ragged[0]
    for value in ragged:
        if plan.graph.type_of(value).shape[:1] == node.type.shape[:1]:
            return value
    message = f"{node.address} runs in every epoch, and nobody knows how long what it gives will be"
    help_ = "let it keep the length of an input, or declare it random, with plan_lengths"
    sites = tuple(sorted(node.note.sites))
    raise PlanError(Problem("T0237", message, help_, sites, address=node.address))


def _constants(plan: Plan, node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for port, value in node.inputs.items():
        if not value.node.rows:
            load: Any = plan.load
            nodes = [needed.id for needed in plan.graph.needs([value])]
            found[port] = Execution(plan.graph, nodes, plan.catalogue, load).constant(value)
    return found


def _address_in(node: Node, task: str) -> str:
    """Return the address that ``node`` has in ``task``: the same, whatever tasks share it."""
    of_task = (f"{task}.", f"{task}/", f"{task}:")
    own = sorted(address for address in node.note.addresses if address.startswith(of_task))
    return own[0] if own else node.address


def _take(array: Any, rows: Ints) -> Any:
    indices = pa.array(rows, pa.int64())
    if isinstance(array, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(array.type, array.storage.take(indices))
    return array.take(indices)


__all__ = ["Call"]
