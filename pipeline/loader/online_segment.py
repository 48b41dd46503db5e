"""Online segments: the nodes between a stored column and a document that the loader runs in every epoch.

What their ops draw depends on the seed of the run, on task and address of the node, on the pass and on the row,
and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ...graph.errors import OpError, Problem
from ...graph.node import Value
from ...graph.op import Rows
from ...graph.passes.cut import Stage
from ...graph.type import source_of
from ...ops.draw import Keys, RowNumbers, make_keys
from ...storage.array_column import from_array, to_array
from ...storage.reader import ColumnReader
from ...storage.template import Gathered
from ..host.bisection import compute_rows
from ..planner.planning import Plan
from .crew import Doing
from .online_call import Call

Ints = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Segment:
    """Computes one value of a task from stored ones.

    Attributes:
        value: The value.
        inputs: The stored values that it is computed from.
        calls: The nodes, in topological order.
        partitions: Id and rows of each partition of the stored columns.
        seed: Seed of the run; None where nothing is drawn.
        beyond: First id past the block of what is given, and what is added to those from there on, so that
            they lie in a block of their own.
    """

    value: Value
    inputs: tuple[Value, ...]
    calls: tuple[Call, ...]
    partitions: Sequence[tuple[str, int]]
    seed: int | None
    beyond: tuple[int, int] | None
    _doing: Doing = field(init=False, default_factory=Doing)
    _numbers: RowNumbers = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = RowNumbers.of(self.partitions)

    @classmethod
    def make(
        cls,
        plan: Plan,
        task: str,
        value: Value,
        columns: Mapping[tuple[str, str], ColumnReader],
        seed: int | None,
    ) -> Self:
        """Return what computes ``value`` of ``task``."""
        nodes = [n for n in plan.graph.needs([value]) if plan.cut.stages[n.id] is Stage.ONLINE]
        read = (v for node in nodes for v in node.inputs.values())
        inputs = tuple(dict.fromkeys(v for v in read if v in plan.cut.stored))
        first = columns[source_of(value.node.rows), inputs[0].column_id]
        return cls(
            value=value,
            inputs=inputs,
            calls=tuple(Call.make(plan, task, node, is_still=seed is None) for node in nodes),
            partitions=first.partitions,
            seed=seed,
            beyond=_find_beyond(plan, task, value),
        )

    @property
    def doing(self) -> str:
        """What it is at, for whoever waits for it."""
        return self._doing.tell()

    def plan_lengths(
        self, lengths: Sequence[Ints], rows: Ints | None, passes: Ints | None
    ) -> Ints | None:
        """Return how long the value of each row will be at most, None for what is dense."""
        known: dict[Value, Ints] = dict(zip(self.inputs, lengths, strict=True))
        numbers = None if rows is None else self._numbers(rows)
        for call in self.calls:
            if call.length_of is not None:
                keys = self._draw(call, numbers, passes)
                known[Value(call.node.id)] = call.plan_lengths(known[call.length_of], keys)
        return known.get(self.value)

    def __call__(self, gathered: Sequence[Gathered], rows: Ints, passes: Ints) -> Gathered:
        """Return what becomes of ``rows`` of the stored columns, each in one of ``passes``.

        Raises:
            OpError: An op refuses a row; task, node and row are named.
        """
        arrays = (to_array(each) for each in gathered)
        values: dict[Value, Any] = dict(zip(self.inputs, arrays, strict=True))
        numbers = self._numbers(rows)
        for call in self.calls:
            with self._doing.note(f"{call.address} ({call.node.op}), {len(rows)} rows"):
                keys = self._draw(call, numbers, passes)
                values[Value(call.node.id)] = self._run(call, values, keys, rows, passes)
        return self._place(from_array(values[self.value]))

    def _draw(self, call: Call, numbers: Keys | None, passes: Ints | None) -> Keys | None:
        if self.seed is None or numbers is None or passes is None or not call.is_random:
            return None
        return make_keys(seed=self.seed, stream=call.stream, pass_number=passes, rows=numbers)

    def _run(
        self,
        call: Call,
        values: Mapping[Value, Any],
        keys: Keys | None,
        rows: Ints,
        passes: Ints,
    ) -> Any:
        inputs = {p: values[v] for p, v in call.node.inputs.items() if v in values}
        every = np.arange(len(rows))
        try:
            made = call.run(inputs, keys, None)
        except Exception as error:
            raise self._blame(call, inputs, keys, rows, passes) from error
        if len(made) == len(rows) and not made.null_count:
            return made
        bad = every[np.asarray(made.is_null())] if len(made) == len(rows) else every[:1]
        message = f"{call.node.op} gives {len(made)} values for {len(rows)} rows"
        problem = Problem("T0305", message)
        if len(made) == len(rows):
            problem = Problem("T0303", f"{call.node.op} gives no value")
        raise OpError(self.tell(call, problem, int(bad[0]), rows, passes))

    def _blame(
        self,
        call: Call,
        inputs: Mapping[str, Any],
        keys: Keys | None,
        rows: Ints,
        passes: Ints,
    ) -> OpError:
        """Return the error that names the rows that ``call`` refuses; of many the first."""
        found: dict[int, Problem] = {}
        try:
            compute_rows(
                lambda which: call.run(inputs, keys, which),
                np.arange(len(rows)),
                refuse=lambda row, problem: found.setdefault(row, problem) and None,
                op=call.node.op,
            )
        except OpError as error:  # on no rows at all
            return error.at(address=call.address, sites=call.sites)
        if not found:
            message = f"{call.node.op} raised, and gave a result when it was called again"
            problem = Problem("T0303", message, "its result is to depend on its inputs alone")
            return OpError(self.tell(call, problem, 0, rows, passes))
        told = [self.tell(call, found[row], row, rows, passes) for row in sorted(found)[:_MAX_TOLD]]
        return OpError(*told)

    def tell(
        self, call: Call, problem: Problem, position: int, rows: Ints, passes: Ints
    ) -> Problem:
        """Return ``problem`` with the place of the row at ``position``, and how to meet it again."""
        partition = int(np.searchsorted(self._numbers.edges, rows[position], side="right")) - 1
        names = [name for name, number in self.partitions if number]
        row = f"{names[partition]}:{rows[position] - self._numbers.edges[partition]}"
        drawn = "" if self.seed is None else f" and seed {self.seed}"
        help_ = f"{problem.help}\nthe loader met it in pass {passes[position]}{drawn}".lstrip()
        placed = replace(problem, row=row, help=help_)
        return OpError(placed).at(address=call.address, sites=call.sites).problems[0]

    def _place(self, gathered: Gathered) -> Gathered:
        """Move ids past the end of their block into the block that they belong to."""
        if self.beyond is None or not isinstance(gathered, tuple):
            return gathered
        (end, step), (values, offsets) = self.beyond, gathered
        wide = values.astype(np.int32)
        return np.where(wide >= end, wide + np.int32(step), wide), offsets


def _find_beyond(plan: Plan, task: str, value: Value) -> tuple[int, int] | None:
    """Return the end of the block of ``value``, and the way from there to the block of ids past the end."""
    makers = [*plan.documents(task)]
    makers += [
        node
        for document in makers
        for read in document.inputs.values()
        if plan.catalogue[(node := plan.graph.nodes[read.node]).op].traits.rows is Rows.GROUP
    ]
    for maker in makers:
        for param in maker.params.values():
            entries: Any = param if isinstance(param, tuple) else ()
            for entry in entries:
                if "beyond" in entry and maker.inputs.get(entry["port"]) == value:
                    vocabulary, block = plan.vocabulary, entry["block"]
                    (size,) = (each.size for each in vocabulary.blocks if each.name == block)
                    past = vocabulary.offset(block) + size
                    return size, vocabulary.offset(entry["beyond"]) - past
    return None


_MAX_TOLD = 3
"""Rows that an error names."""

__all__ = ["Segment"]
