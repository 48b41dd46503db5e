"""Online columns of a plan: each computed from stored ones by one segment, and by whom.

What becomes of a row depends on the row and its pass alone, so rows are divided among a crew, and who computes
which changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...graph.errors import OpError, Problem
from ...graph.type import source_of
from ...storage.array_column import join_rows, slice_rows
from ...storage.online import OnlineColumn
from ...storage.reader import ColumnReader
from ...storage.template import Column, Columns, Gathered
from ..host.bisection import compute_rows
from ..host.pool import WorkerDiedError
from ..planner.planning import Plan
from .crew import Compute, Crew, Doing
from .online_call import Call
from .online_segment import Segment

Ints = npt.NDArray[np.int64]

_LEAST_PART_S: Final = 0.005
"""Work below which a part is not worth handing over."""


def add_online_columns(
    plan: Plan,
    columns: Mapping[tuple[str, str], ColumnReader],
    seed: int | None,
    crew: Crew,
) -> Columns:
    """Return stored ``columns`` of ``plan``, and those that the loader computes of them.

    Args:
        plan: The plan.
        columns: By source and column id.
        seed: Of what is drawn; None for evaluation, where nothing is.
        crew: Who computes them.

    Raises:
        PlanError: Nobody knows how long what an online op gives will be (T0237).
    """
    every: dict[tuple[str, str], Column] = {**columns}
    for task in plan.tasks:
        for value in plan.online_of(task):
            segment = Segment.make(plan, task, value, columns, seed)
            source = source_of(value.node.rows)
            stored = tuple(columns[source, each.column_id] for each in segment.inputs)
            every[source, plan.column_of(task, value)] = OnlineColumn(stored, Shared(segment, crew))
    return every


@dataclass(slots=True, eq=False)
class Shared:
    """A segment that a crew computes.

    Attributes:
        segment: The segment.
        crew: The crew.
    """

    segment: Segment
    crew: Crew
    _row_s: float = field(init=False, default=0.0)
    _doing: Doing = field(init=False, default_factory=Doing)

    @property
    def doing(self) -> str:
        """What it is at, for whoever waits for it."""
        return self._doing.tell() or self.segment.doing

    def plan_lengths(
        self, lengths: Sequence[Ints], rows: Ints | None, passes: Ints | None
    ) -> Ints | None:
        """Return how long the value of each row will be at most, None for what is dense."""
        return self.segment.plan_lengths(lengths, rows, passes)

    def __call__(self, gathered: Sequence[Gathered], rows: Ints, passes: Ints) -> Gathered:
        """Return what becomes of ``rows`` of the stored columns, each in one of ``passes``.

        Raises:
            OpError: An op refuses a row, or a worker process dies of it; task, node and row are named.
        """
        num_parts = min(self.crew.num_workers, int(len(rows) * self._row_s / _LEAST_PART_S))
        edges = np.linspace(0, len(rows), max(1, num_parts) + 1).astype(np.int64).tolist()
        run = self._where_to_run() if len(rows) else self.segment

        def compute(part: int) -> Gathered:
            begin, end = edges[part : part + 2]
            cut = [slice_rows(each, begin, end) for each in gathered]
            return run(cut, rows[begin:end], passes[begin:end])

        began = time.perf_counter()
        parts = range(len(edges) - 1)
        made = self.crew.map(compute, parts) if len(parts) > 1 else [compute(0)]
        if len(rows):
            self._row_s = (time.perf_counter() - began) * len(parts) / len(rows)
        return join_rows(made)

    def _where_to_run(self) -> Compute:
        aloof = next((call for call in self.segment.calls if call.needs_process), None)
        return self.segment if aloof is None else partial(self._ask, aloof)

    def _ask(self, aloof: Call, gathered: Sequence[Gathered], rows: Ints, passes: Ints) -> Gathered:
        """Let a worker process compute rows, because of the op ``aloof``."""
        what = f"{aloof.address} ({aloof.node.op}), {len(rows)} rows, in a worker process"
        with self._doing.note(what):
            try:
                return self.crew.ask(self.segment, gathered, rows, passes)
            except WorkerDiedError as error:
                raise self._blame(aloof, gathered, rows, passes, error) from error
            except OpError as error:
                raise error.at(address=aloof.address, sites=aloof.sites) from error

    def _blame(
        self,
        aloof: Call,
        gathered: Sequence[Gathered],
        rows: Ints,
        passes: Ints,
        error: WorkerDiedError,
    ) -> OpError:
        """Return the error that names the first row that a worker process dies of, if it does so again."""
        found: dict[int, Problem] = {}

        def compute(which: Ints) -> Any:
            begin, end = (int(which[0]), int(which[-1]) + 1) if len(which) else (0, 0)
            cut = [slice_rows(each, begin, end) for each in gathered]
            return self.crew.ask(self.segment, cut, rows[begin:end], passes[begin:end])

        def refuse(row: int, problem: Problem) -> None:
            found[row] = replace(problem, help=_CRASHED)

        compute_rows(compute, np.arange(len(rows)), refuse=refuse, op=aloof.node.op)
        if not found:
            return error.at(address=aloof.address, sites=aloof.sites)
        row = min(found)
        return OpError(self.segment.tell(aloof, found[row], row, rows, passes))


_CRASHED: Final = (
    "the op crashes on this row, or memory runs out: take the row out, or give fewer loader_workers"
)

__all__ = ["Shared", "add_online_columns"]
