"""Running host nodes on record batches, and finding the rows that cannot be computed.

Ops never see missing values: rows with one are left out before a call and are missing in its result. When a
call raises, the rows at fault are found: an op may name them all at once (`RowErrors`); otherwise it is tried
on no rows at all, to tell a broken op from a bad row, and then on ever smaller halves.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..graph.errors import OpError, Problem, TaskloomError
from ..graph.graph import Graph
from ..graph.node import Node, NodeId, Value
from ..graph.op import Catalogue, Rows
from ..ops.errors import RowErrors

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
        read = (op.column for op in self._ops.values() if op.traits.name == "read_columns")
        return tuple(dict.fromkeys(read))

    def column_of(self, node: Node) -> str:
        """Return the names of the columns that ``node`` is computed from."""
        made_of = self.graph.needs([Value(node.id)])
        read = (str(n.params["column"]) for n in made_of if n.op == "read_columns")
        return ", ".join(dict.fromkeys(read))

    def run(self, batch: pa.RecordBatch) -> tuple[dict[Value, Any], list[Failure]]:
        """Run every node on ``batch``.

        Returns:
            The output of each node: constants as they are, others as long as the batch and null where a row
            could not be computed; and the failures in order of row.

        Raises:
            OpError: An op fails on no rows at all, so no row is to blame.
        """
        values: dict[Value, Any] = {}
        failures: dict[tuple[int, NodeId], Failure] = {}
        for node_id in self.nodes:
            call = _Call(self, self.graph.nodes[node_id], self._ops[node_id], batch)
            values[Value(node_id)] = call.run(values)
            failures |= {(f.offset, f.node): f for f in call.failures}
        return values, sorted(failures.values(), key=lambda failure: failure.offset)

    def constant(self, value: Value) -> Any:
        """Return what ``value`` stands for, where it and all it needs are constants."""
        values: dict[Value, Any] = {}
        nothing = pa.RecordBatch.from_pylist([])
        for node_id in self.nodes:
            call = _Call(self, self.graph.nodes[node_id], self._ops[node_id], nothing)
            values[Value(node_id)] = call.run(values)
        return values[value]

    @cached_property
    def _ops(self) -> dict[NodeId, Any]:
        nodes = (self.graph.nodes[node] for node in self.nodes)
        return {node.id: self.catalogue[node.op](**node.params) for node in nodes}


@dataclass(slots=True)
class _Call:
    """One op on one record batch."""

    execution: Execution
    node: Node
    op: Any
    batch: pa.RecordBatch
    failures: list[Failure] = field(default_factory=list[Failure])

    def run(self, values: Mapping[Value, Any]) -> Any:
        """Return the node's output, null where an input is null or the row failed."""
        if self.op.traits.rows is Rows.READ:
            return self.op(self.batch)
        if self.node.op == "load_artifacts":
            return self.execution.load(self.op.kind, self.op.digest)
        inputs = {port: values[value] for port, value in self.node.inputs.items()}
        return self._map(inputs) if self.node.id.rows else self.op(**inputs)

    def _map(self, inputs: Mapping[str, Any]) -> pa.Array:
        num_rows = self.batch.num_rows
        is_const = {port: not value.node.rows for port, value in self.node.inputs.items()}
        rows = np.arange(num_rows)
        if not self.op.traits.accepts_null:
            for port, array in inputs.items():
                if not is_const[port] and array.null_count:
                    self._note_missing(port, array)
                    rows = rows[np.asarray(pc.is_valid(array.take(pa.array(rows))))]
        row_inputs = {p: a for p, a in inputs.items() if not is_const[p]}
        const_inputs = {p: a for p, a in inputs.items() if is_const[p]}
        parts = list(self._compute(row_inputs, const_inputs, rows))
        return _scatter(parts, num_rows)

    def _compute(
        self, row_inputs: Mapping[str, Any], const_inputs: Mapping[str, Any], rows: np.ndarray
    ) -> list[tuple[np.ndarray, pa.Array]]:
        """Return outputs for as many of ``rows`` as can be computed."""
        taken = {p: _take(a, rows, self.batch.num_rows) for p, a in row_inputs.items()}
        try:
            return [(rows, self.op(**taken, **const_inputs))]
        except RowErrors as errors:
            for position, problem in errors.reasons.items():
                self._fail(int(rows[position]), problem)
            good = np.delete(rows, list(errors.reasons))
            return self._compute(row_inputs, const_inputs, good)
        except Exception as error:  # whatever a row makes an op raise is that row's fault
            if len(rows) == 0:
                raise self._broken(error) from error
            if len(rows) == 1:
                self._fail(int(rows[0]), _problem_of(error))
                return self._compute(row_inputs, const_inputs, rows[:0])
            self._compute(row_inputs, const_inputs, rows[:0])
            half = len(rows) // 2
            return [
                *self._compute(row_inputs, const_inputs, rows[:half]),
                *self._compute(row_inputs, const_inputs, rows[half:]),
            ]

    def _note_missing(self, port: str, array: pa.Array) -> None:
        maker = self.execution.graph.nodes[self.node.inputs[port].node]
        if maker.op != "read_columns":
            return  # the node that failed has said why
        column = str(maker.params["column"])
        for row in np.flatnonzero(np.asarray(pc.is_null(array))):
            problem = Problem("T0302", "the value is missing", "fill it in, or filter with where=")
            self._fail(int(row), problem, maker, column)

    def _fail(self, row: int, problem: Problem, node: Node | None = None, column: str = "") -> None:
        node = node or self.node
        column = column or self.execution.column_of(node)
        if problem.column:  # an op knows the value, not the column it came from
            column = f"{column} ({problem.column})"
        place = {"address": node.address, "sites": tuple(sorted(node.note.sites))}
        placed = OpError(replace(problem, column=column)).at(**place).problems[0]
        self.failures.append(Failure(row, node.id, placed))

    def _broken(self, error: Exception) -> OpError:
        problem = _problem_of(error)
        message = f"{self.node.op} fails on no rows at all: {problem.message}"
        sites = tuple(sorted(self.node.note.sites))
        return OpError(Problem("T0305", message, problem.help, sites, self.node.address))


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, TaskloomError):
        return error.problems[0]
    return Problem("T0303", f"{type(error).__name__}: {error}")


def _take(array: pa.Array, rows: np.ndarray, num_rows: int) -> pa.Array:
    if len(rows) == num_rows:
        return array
    return _take_nullable(array, pa.array(rows, pa.int64()))


def _take_nullable(array: pa.Array, indices: pa.Array) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(array.type, array.storage.take(indices))
    return array.take(indices)


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
    return _take_nullable(joined, indices)
