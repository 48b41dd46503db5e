"""Running host nodes on record batches, and finding the rows that cannot be computed.

Nothing is drawn here: an op that draws in training runs in the form that it declares for evaluation.

Ops never see missing values: rows with one are left out before a call and are missing in its result. When a
call raises, `bisection` finds the rows at fault.

An op that expands gives a list for each row; its items are the rows of what follows, until an op that groups is
given them as lists again. A row that could not be expanded has no items; a bad item is a bad row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...graph.errors import OpError, Problem, Site
from ...graph.graph import Graph
from ...graph.node import Node, NodeId, Value
from ...graph.op import Catalogue, Rows, Traits
from ...graph.type import parent_rows
from .bisection import compute_rows
from .items import Items, take_nullable
from .meter import Meter

LoadArtifact = Callable[[str, str], object]
"""Returns the artifact of a kind and digest."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that a node could not compute.

    Attributes:
        offset: Position of the row in the record batch.
        node: The node.
        problem: What is wrong, with the node's address and instructions filled in.
    """

    offset: int
    node: NodeId
    problem: Problem


@dataclass(frozen=True)
class Execution:
    """Some nodes of a graph, ready to run.

    Attributes:
        graph: The graph.
        nodes: The nodes to run, in topological order, with everything they need.
        catalogue: The ops.
        load: How to get artifacts.
    """

    graph: Graph
    nodes: Sequence[NodeId]
    catalogue: Catalogue
    load: LoadArtifact

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that the nodes read."""
        return tuple(dict.fromkeys(c for node in self.nodes for c in self.columns_of(node)))

    def columns_of(self, node: NodeId) -> tuple[str, ...]:
        """Return the columns of the source that ``node`` is computed from."""
        if node not in self._columns:
            made_of = self.graph.needs([Value(node)])
            read = (str(n.params["column"]) for n in made_of if n.op == "read_columns")
            self._columns[node] = tuple(dict.fromkeys(read))
        return self._columns[node]

    def column_told(self, node: NodeId) -> str:
        """Return the columns that a message about ``node`` names: of an item, only those it was picked from."""
        columns: dict[str, None] = {}
        waiting = [self.graph.nodes[node]]
        while waiting:
            here = waiting.pop(0)
            inputs = list(here.inputs.values())
            if here.op == "read_columns":
                columns[str(here.params["column"])] = None
            elif here.op == "pick_items":
                lists = self.graph.nodes[inputs[0].node].inputs
                inputs = [lists[f"lists.{here.params['number']}"]]
            waiting += [self.graph.nodes[value.node] for value in inputs]
        return ", ".join(columns)

    def sites_of(self, node: Node) -> tuple[Site, ...]:
        """Return where ``node`` stands: one tuple for all its bad rows, since a thousand tasks may share it."""
        if node.id not in self._sites:
            self._sites[node.id] = tuple(sorted(node.note.sites))
        return self._sites[node.id]

    @cached_property
    def readers(self) -> frozenset[NodeId]:
        """The nodes that read the source."""
        return frozenset(node for node, op in self._ops.items() if op.traits.rows is Rows.READ)

    def run(
        self,
        batch: pa.RecordBatch,
        meter: Meter | None = None,
        items: dict[str, Items] | None = None,
    ) -> tuple[dict[Value, Any], list[Failure]]:
        """Run every node on ``batch``.

        Args:
            batch: Rows of the source.
            meter: Takes what each node cost.
            items: Takes the items of each row set that some node has expanded.

        Returns:
            The output of each node: constants as they are, others as long as the batch, or as many as there
            are items, and null where a row could not be computed; and the failures in order of row.

        Raises:
            OpError: An op fails on no rows at all, so no row is to blame.
        """
        values: dict[Value, Any] = {}
        failures: dict[tuple[int, NodeId], Failure] = {}
        items = {} if items is None else items
        for node_id in self.nodes:
            call = _Call(self, self.graph.nodes[node_id], self._ops[node_id], batch, items)
            began = time.perf_counter()
            made = values[Value(node_id)] = call.run(values)
            if meter is not None:
                meter.add(node_id, time.perf_counter() - began, call.rows_in, made)
            for failure in call.failures:
                failures.setdefault((failure.offset, failure.node), failure)
        if meter is not None:
            for _, node_id in failures:  # a value that two nodes miss is refused once
                meter.of(node_id).rejects += 1
        return values, sorted(failures.values(), key=lambda failure: failure.offset)

    def constant(self, value: Value) -> Any:
        """Return what ``value`` stands for, where it and all it needs are constants."""
        values: dict[Value, Any] = {}
        nothing = pa.RecordBatch.from_pylist([])
        for node_id in self.nodes:
            call = _Call(self, self.graph.nodes[node_id], self._ops[node_id], nothing, {})
            values[Value(node_id)] = call.run(values)
        return values[value]

    @cached_property
    def _sites(self) -> dict[NodeId, tuple[Site, ...]]:
        return {}

    @cached_property
    def _columns(self) -> dict[NodeId, tuple[str, ...]]:
        return {}

    @cached_property
    def _ops(self) -> dict[NodeId, Any]:
        nodes = (self.graph.nodes[node] for node in self.nodes)
        return {node.id: make_still(self.catalogue[node.op](**node.params)) for node in nodes}


def make_still(op: Any) -> Any:
    """Return ``op``, or what stands in the place of one that draws where nothing is drawn."""
    if not op.traits.is_random:
        return op
    return op.evaluation() or _Unchanged(op)


@dataclass(frozen=True, slots=True)
class _Unchanged:
    """In the place of an op that draws: its first input as it is."""

    op: Any

    @property
    def traits(self) -> Traits:
        """Those of the op."""
        return self.op.traits

    def __call__(self, *columns: Any, **named: Any) -> Any:
        """Return the first column."""
        return (*columns, *named.values())[0]


@dataclass(slots=True)
class _Call:
    """One op on one record batch, and the items that others have made of its rows."""

    execution: Execution
    node: Node
    op: Any
    batch: pa.RecordBatch
    items: dict[str, Items]
    failures: list[Failure] = field(default_factory=list[Failure])
    rows_in: int = 0

    def run(self, values: Mapping[Value, Any]) -> Any:
        """Return the node's output, null where an input is null or the row failed."""
        if self.op.traits.rows is Rows.READ:
            self.rows_in = self.batch.num_rows
            try:
                return self.op(self.batch)
            except OpError as error:
                raise error.at(**self._place(self.node)) from None
        if self.node.op == "load_artifacts":
            return self.execution.load(self.op.kind, self.op.digest)
        inputs = {port: values[value] for port, value in self.node.inputs.items()}
        if not self.node.id.rows:
            return self.op(**inputs)
        made = self._map({port: self._align(port, array) for port, array in inputs.items()})
        if self.op.traits.rows is not Rows.EXPAND:
            return made
        self.items[self.node.id.rows] = Items.of(made)
        return made.flatten()

    @property
    def _rows(self) -> str:
        """The row set that the op works on; an op that expands gives another."""
        rows = self.node.id.rows
        return parent_rows(rows) if self.op.traits.rows is Rows.EXPAND else rows

    def _align(self, port: str, array: Any) -> Any:
        """Return an input over the rows that the op works on: repeated for items, or gathered from them."""
        given = self.node.inputs[port].node.rows
        if given in ("", self._rows):
            return array
        if self.op.traits.rows is Rows.REPEAT:
            return self.items[self._rows].repeat(array)
        return self.items[given].gather(array)

    def _map(self, inputs: Mapping[str, Any]) -> pa.Array:
        rows = self._rows
        num_rows = len(self.items[rows]) if rows in self.items else self.batch.num_rows
        consts = {p for p, value in self.node.inputs.items() if not value.node.rows}
        row_inputs = {port: array for port, array in inputs.items() if port not in consts}
        const_inputs = {port: value for port, value in inputs.items() if port in consts}

        def call(rows: np.ndarray) -> pa.Array:
            taken = {port: _take(array, rows) for port, array in row_inputs.items()}
            made = self.op(**taken, **const_inputs)
            if len(made) != len(rows):
                message = f"{self.node.op} gives {len(made)} values for {len(rows)} rows"
                raise OpError.of("T0305", message)
            return made

        rows = np.flatnonzero(self._has_values(row_inputs, num_rows))
        self.rows_in = len(rows)
        try:
            parts = compute_rows(call, rows, refuse=self._fail, op=self.node.op)
        except OpError as error:
            raise error.at(**self._place(self.node)) from error.__cause__
        for rows, values in parts:  # no row vanishes without a word
            for row in rows[np.asarray(values.is_null())]:
                self._fail(int(row), Problem("T0303", f"{self.node.op} gives no value"))
        return _scatter(parts, num_rows)

    def _has_values(self, inputs: Mapping[str, pa.Array], num_rows: int) -> npt.NDArray[np.bool_]:
        """Return which rows have all values that the op needs, and note those that the source lacks."""
        has_value = np.ones(num_rows, np.bool_)
        if self.op.traits.accepts_null:
            return has_value
        for port, array in inputs.items():
            if array.null_count:
                self._note_missing(port, array)
                has_value &= np.asarray(array.is_valid())
        return has_value

    def _note_missing(self, port: str, array: pa.Array) -> None:
        maker = self.execution.graph.nodes[self.node.inputs[port].node]
        if maker.op != "read_columns":
            return  # the node that failed has said why
        help_ = "fill it in, or leave such rows out with where="
        problem = Problem("T0302", "the value is missing", help_)
        for row in np.flatnonzero(np.asarray(array.is_null())):
            self._fail(int(row), problem, maker)

    def _fail(self, row: int, problem: Problem, node: Node | None = None) -> None:
        node = node or self.node
        column = self.execution.column_told(node.id)
        row, place = self._find_row(row)
        # An op knows the value, neither the column it came from nor its place in a list.
        if told := ", ".join(filter(None, (place, problem.column))):
            column = f"{column} ({told})"
        placed = OpError(replace(problem, column=column)).at(**self._place(node)).problems[0]
        self.failures.append(Failure(row, node.id, placed))

    def _find_row(self, row: int) -> tuple[int, str]:
        """Return the row of the source that ``row`` comes from, and its place in the lists of that row."""
        places: list[str] = []
        rows = self._rows
        while rows in self.items:
            items, rows = self.items[rows], parent_rows(rows)
            parent = items.find_row(row)
            places.append(f"item {row - int(items.offsets[parent]) + 1}")
            row = parent
        return row, " of ".join(places)

    def _place(self, node: Node) -> dict[str, Any]:
        return {"address": node.address, "sites": self.execution.sites_of(node)}


def _take(array: pa.Array, rows: np.ndarray) -> pa.Array:
    return array if len(rows) == len(array) else take_nullable(array, pa.array(rows, pa.int64()))


def _scatter(parts: Sequence[tuple[np.ndarray, pa.Array]], num_rows: int) -> pa.Array:
    """Return the parts' values at their rows, null elsewhere."""
    rows = np.concatenate([rows for rows, _ in parts])
    arrays = [array for _, array in parts]
    joined = arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    if len(rows) == num_rows and bool((rows[1:] > rows[:-1]).all()):
        return joined
    positions = np.full(num_rows, -1)
    positions[rows] = np.arange(len(rows))
    indices = pa.array(positions, pa.int64(), mask=positions < 0)
    return take_nullable(joined, indices)
