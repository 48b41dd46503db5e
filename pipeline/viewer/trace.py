"""Traces: one row after every node, from its source to its document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ...graph.errors import OpError, Problem
from ...graph.node import Node, NodeId, Value
from ...graph.op import Rows
from ...graph.preview import PreviewView
from ...ops.host.bpe import Bpe
from ..host.execute import Execution
from ..host.items import Items
from ..planner.planning import Plan
from ..planner.sample import Document, documents_of
from .preview import Speller, preview_value
from .run_to import as_batch, pack_rows, row_values, run_to, unfitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row after one node.

    Attributes:
        node: The node.
        preview: What it made of the row; None if it was not run.
        problem: Why it refused the row.
        note: What else there is to say of it, such as why it was not run.
    """

    node: Node
    preview: PreviewView | None = None
    problem: Problem | None = None
    note: str = ""

    def address_in(self, task: str) -> str:
        """Return where the node stands in ``task``; tasks may share it."""
        return self.node.note.address_in(task) or self.node.address


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One row after every node of its task: each part of its document in order, from the source on.

    Attributes:
        task: Name of the task.
        row: Row id, or number of the row.
        steps: The nodes.
    """

    task: str
    row: str
    steps: tuple[Step, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why the row is bad, if it is."""
        return tuple(step.problem for step in self.steps if step.problem is not None)


def trace_row(plan: Plan, task: str, table: pa.Table, *, row: str) -> Trace:
    """Return what every node that ``task`` needs makes of the row in ``table``.

    A node that refuses the row ends the steps behind it, and no others; what waits for a fit is named.
    """
    runner = _Runner(plan, table, row)
    steps = [*runner.steps(_in_order(plan, task)), *runner.pack(task)]
    return Trace(task=task, row=row, steps=tuple(steps))


def trace_node(
    plan: Plan, task: str, table: pa.Table, node: Node, *, row: str, model: Any = None
) -> Trace:
    """Return what one node of the graph, the device half included, makes of the row in ``table``.

    Raises:
        PlanError: The node needs what is still to be fitted (T0238).
        CheckpointError: ``model`` has no parameters for it.
    """
    values, problems = run_to(plan, node, table, task=task, model=model)
    speller = make_speller(plan)
    value = values[0] if values else None
    value = value if isinstance(value, dict) else {next(iter(node.types)): value}
    found = [problem for each in problems.values() for problem in each]
    steps = [
        Step(
            node=node,
            preview=preview_value(made, node.types[port], row=row, speller=speller),
            problem=replace(found[0], row=row) if found else None,
            note="" if len(value) == 1 else port,
        )
        for port, made in value.items()
        if port in node.types
    ]
    return Trace(task=task, row=row, steps=tuple(steps))


def make_speller(plan: Plan) -> Speller:
    """Return what ids of ``plan`` stand for, as far as its vocabulary is fitted."""
    loads = (node.params for node in plan.graph if node.op == "load_artifacts")
    digests = [str(load["digest"]) for load in loads if load["kind"] == "bpe" and load["digest"]]
    if plan.load is None or not digests:
        return Speller(plan.vocabulary)
    bpe = plan.load("bpe", digests[0])
    return Speller(plan.vocabulary, bpe if isinstance(bpe, Bpe) else None)


def _in_order(plan: Plan, task: str) -> list[Node]:
    """Return the nodes that a document is made of, part by part; of an artifact not what it is fitted on."""
    found: dict[NodeId, Node] = {}
    documents = plan.documents(task)
    waiting = list(dict.fromkeys(v.node for each in documents for v in each.inputs.values()))
    waiting.reverse()
    while waiting:
        node = plan.graph.nodes[waiting[-1]]
        is_fit = plan.catalogue[node.op].traits.rows is Rows.FIT
        before = [] if is_fit else [v.node for v in node.inputs.values() if v.node not in found]
        if before:
            waiting += reversed(before)
        else:
            found.setdefault(waiting.pop(), node)
    return list(found.values())


_STILL = "drawn anew in every pass of training; here as it is in evaluation, where nothing is drawn"


class _Runner:
    """Runs the nodes of a plan on one row."""

    def __init__(self, plan: Plan, table: pa.Table, row: str) -> None:
        self._plan = plan
        self._table = table
        self._row = row
        self._speller = make_speller(plan)
        self._items: dict[str, Items] = {}
        self._waiting: dict[NodeId, str] = {}
        self._problems: dict[NodeId, Problem] = {}

    def steps(self, nodes: Sequence[Node]) -> Iterator[Step]:
        """Yield the step of each host node."""
        waiting = self._waiting
        unknown = {*unfitted(self._plan, nodes)}
        for node in nodes:
            if node.address in unknown:
                waiting[node.id] = "a build fits it"
            self._wait_for_inputs(node, "is not fitted yet")
        # What joins the items of a group belongs to the loader, and is shown in the document.
        nodes = [n for n in nodes if not self._plan.catalogue[n.op].traits.is_online]
        values = self._run([node for node in nodes if node.id not in waiting])
        for node in nodes:
            yield self._step(node, values)

    def pack(self, task: str) -> Iterator[Step]:
        """Yield the steps of the document of each template, and of its pack."""
        for number in range(len(self._plan.templates(task))):
            yield from self._pack(task, number)

    def _pack(self, task: str, number: int) -> Iterator[Step]:
        document = self._plan.templates(task)[number][0]
        self._wait_for_inputs(document, "has no value")
        if document.id in self._waiting:
            yield Step(node=document, note=self._waiting[document.id])
            return
        packed = pack_rows(self._plan, task, self._table, template=number)
        for pack in packed.packs:
            for _, made in documents_of(pack, packed.template):
                yield Step(node=document, preview=self._preview(made, document))
                yield Step(node=self._plan.graph["pack"], note=_tell_pack(made, pack))
        if not packed.packs:  # a part of a value is missing, of which the whole knows nothing
            bad = [problem.address for each in packed.problems.values() for problem in each]
            yield Step(node=document, note=f"not run: {next(iter(bad), 'something')} has no value")

    def _run(self, nodes: Sequence[Node]) -> dict[Value, Any]:
        """Return what nodes make of the row; those that break whatever the row are left out, and noted."""
        plan, left = self._plan, list(nodes)
        while True:
            load: Any = plan.load
            execution = Execution(plan.graph, [node.id for node in left], plan.catalogue, load)
            try:
                values, failures = execution.run(
                    as_batch(self._table, execution), items=self._items
                )
            except OpError as error:
                problem = replace(error.problems[0], row=self._row)
                broken = next(n for n in left if problem.address in n.note.addresses)
                self._problems[broken.id] = problem
                self._waiting[broken.id] = ""
                for node in left:
                    self._wait_for_inputs(node, "fails")
                left = [node for node in left if node.id not in self._waiting]
                continue
            for failure in failures:
                self._problems.setdefault(failure.node, replace(failure.problem, row=self._row))
            return values

    def _wait_for_inputs(self, node: Node, why: str) -> None:
        for value in node.inputs.values():
            if value.node in self._waiting and node.id not in self._waiting:
                maker = self._plan.graph.nodes[value.node]
                self._waiting[node.id] = f"not run: {maker.address} {why}"

    def _step(self, node: Node, values: dict[Value, Any]) -> Step:
        problem = self._problems.get(node.id)
        if (note := self._waiting.get(node.id)) is not None:
            return Step(node=node, problem=problem, note=note)
        made = values[Value(node.id)]
        if isinstance(made, pa.Array):
            (value,) = row_values(made, node, self._items)
        else:
            value = made
        if value is None and problem is None:
            self._waiting[node.id] = ""
            self._wait_for_values(node, values)
            return Step(node=node, note=self._waiting[node.id])
        if value is None:
            self._waiting[node.id] = ""
            return Step(node=node, problem=problem)
        is_random = self._plan.catalogue[node.op].traits.is_random
        preview = self._preview(value, node)
        return Step(node=node, preview=preview, note=_STILL if is_random else "", problem=problem)

    def _wait_for_values(self, node: Node, values: dict[Value, Any]) -> None:
        without = (
            self._plan.graph.nodes[value.node].address
            for value in node.inputs.values()
            if isinstance(values[value], pa.Array) and values[value].null_count
        )
        self._waiting[node.id] = f"not run: {next(without, 'something')} has no value"

    def _preview(self, value: Any, node: Node) -> PreviewView:
        return preview_value(value, node.type, row=self._row, speller=self._speller)


def _tell_pack(document: Document, pack: Any) -> str:
    source, target = len(document.source_ids), len(document.target_ids)
    return (
        f"positions 0 to {source} of {len(pack.source_ids)} source, "
        f"0 to {target} of {len(pack.target_ids)} target, alone in a pack of its own"
    )
