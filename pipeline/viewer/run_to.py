"""Running a plan up to one node, on a few rows given by hand.

Nothing is computed that the node does not need. What a host node gives is one value for each row; for the pack
and the device half the rows are packed alone, in as few packs as hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...graph.errors import PlanError, Problem, SourceError, suggest
from ...graph.node import Node, NodeId, Value
from ...graph.op import Rows
from ...graph.passes.cut import Stage
from ...graph.type import CONSTANT_ROWS, parent_rows
from ...graph.vocabulary import PAD
from ...ops.host.read import SPLIT_COLUMN
from ...ops.pack_layout import UNKNOWN
from ...storage.capacity import Capacity
from ...storage.length import measure_documents
from ...storage.one_pass import pack_documents
from ...storage.pack import Pack
from ...storage.template import Documents, Template
from ..answerer.inference import Model
from ..host.execute import Execution, LoadArtifact
from ..host.items import Items
from ..loader.given_rows import RowReader, missing_column
from ..loader.packing import to_inputs
from ..model.program import Program
from ..planner.document import make_templates
from ..planner.planning import Plan
from ..planner.sample import documents_of, host_values

GivenRows: TypeAlias = "pa.Table | Sequence[Mapping[str, object]]"
Problems: TypeAlias = "dict[int, list[Problem]]"

_PACK_TOKENS = 4096
"""Longest stream of a pack, unless one row alone is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """Rows in packs of their own.

    Attributes:
        packs: The packs, whose documents name their rows by number.
        template: What the documents are made of.
        problems: What is wrong with rows that are in no pack.
    """

    packs: tuple[Pack, ...]
    template: Template
    problems: Problems


def run_to(
    plan: Plan,
    node: Node,
    rows: GivenRows,
    *,
    task: str | None = None,
    model: Model | str | Path | None = None,
) -> tuple[list[Any], Problems]:
    """Return what ``node`` makes of ``rows``, and what is wrong with those it makes nothing of.

    Args:
        plan: The plan.
        node: A node of it.
        rows: Rows with the columns that the node needs.
        task: Whose documents to pack, for nodes behind the pack.
        model: Whose parameters device nodes compute with; parameters drawn with seed 0 otherwise.

    Raises:
        PlanError: The node needs what is still to be fitted, or documents of no known task.
        SourceError: The rows lack a column.
        CheckpointError: The model has no parameters for the node.
    """
    if plan.cut.stages[node.id] is Stage.DEVICE or node.op == "pack_documents":
        return _run_packed(plan, node, rows, _choose_task(plan, task), model)
    if (place := _find_template(plan, node)) is not None:
        packed = pack_rows(plan, place[0], rows, template=place[1])
        found = {r: d for p in packed.packs for r, d in documents_of(p, packed.template)}
        return [found.get(row) for row in range(len(rows))], packed.problems
    return run_host(plan, node, rows)


def run_host(plan: Plan, node: Node, rows: GivenRows) -> tuple[list[Any], Problems]:
    """Do the same for a node of the host half that is no document."""
    if node.op == "group_items":
        return _run_group(plan, node, rows)
    execution = host_execution(plan, [node.id])
    if node.id.rows == CONSTANT_ROWS:
        made = execution.constant(Value(node.id))
        return host_values(made, node.type.dtype) if isinstance(made, pa.Array) else [made], {}
    items: dict[str, Items] = {}
    values, failures = execution.run(as_batch(rows, execution), items=items)
    problems: Problems = {}
    for failure in failures:
        problem = replace(failure.problem, row=str(failure.offset))
        problems.setdefault(failure.offset, []).append(problem)
    return row_values(values[Value(node.id)], node, items), problems


def row_values(made: pa.Array, node: Node, items: Mapping[str, Items]) -> list[Any]:
    """Return what a host node made of each row: a value, or a list of the values of its items."""
    values, rows = host_values(made, node.type.dtype), node.id.rows
    while rows in items:
        values, rows = items[rows].regroup(values), parent_rows(rows)
    return values


def _run_group(plan: Plan, node: Node, rows: GivenRows) -> tuple[list[Any], Problems]:
    """Return what each item of each row is made of, which the loader joins."""
    problems: Problems = {}
    parts: list[list[Any]] = []
    for value in node.inputs.values():
        if value.node.rows not in ("", node.id.rows):
            made, wrong = run_host(plan, plan.graph.nodes[value.node], rows)
            problems |= wrong
            parts.append([each or [] for each in made])
    return [list(zip(*lists, strict=True)) for lists in zip(*parts, strict=True)], problems


def host_execution(plan: Plan, nodes: Sequence[NodeId], *, asked: str = "") -> Execution:
    """Return what runs host nodes and all they need; ``asked`` is the address they are run for, if another.

    Raises:
        PlanError: Some artifact is still to be fitted, or the plan knows none (T0238).
    """
    needed = plan.graph.needs([Value(node) for node in nodes])
    if unknown := unfitted(plan, needed):
        address = asked or plan.graph.nodes[nodes[0]].address
        message = f"{address} needs {', '.join(unknown)}, which is not fitted yet"
        help_ = "build first, then plan with the store: open_plan(tasks, store)"
        raise PlanError(Problem("T0238", message, help_, address=address))
    return Execution(plan.graph, [n.id for n in needed], plan.catalogue, _load(plan))


def unfitted(plan: Plan, nodes: Sequence[Node]) -> list[str]:
    """Return the addresses of the artifacts among ``nodes`` that nobody knows yet."""
    return [
        node.address
        for node in nodes
        if plan.catalogue[node.op].traits.rows is Rows.FIT
        or (node.op == "load_artifacts" and (plan.load is None or not node.params["digest"]))
    ]


def pack_rows(plan: Plan, task: str, rows: GivenRows, *, template: int = 0) -> PackedRows:
    """Pack the documents that a template of ``task``, the first unless another is said, makes of ``rows``.

    Raises:
        PlanError: Some artifact is still to be fitted.
        SourceError: The rows lack a column.
    """
    document = plan.templates(task)[template][0]
    read = [value.node for value in (*plan.stored_of(task), *plan.online_of(task))]
    host_execution(plan, read or [document.id], asked=document.address)
    reader = RowReader.make(plan, task, _load(plan))
    batch = as_batch(rows, reader.execution)
    columns, problems = reader.read(batch, 0)
    usable = [row for row in range(batch.num_rows) if row not in problems]
    # Alone, so that every row is made of it.
    alone = replace(make_templates(plan, task)[template], number=0, num_templates=1)
    documents = measure_documents(alone, columns, np.array(usable, np.int64))
    if not usable:
        return PackedRows(packs=(), template=alone, problems=problems)
    packs = pack_documents(
        [alone], {task: documents.rows}, columns, _capacity(documents), pad_id=PAD
    )
    return PackedRows(packs=tuple(packs), template=alone, problems=problems)


def as_batch(rows: GivenRows, execution: Execution) -> pa.RecordBatch:
    """Return the columns of ``rows`` that are read, and their splits: all train, unless they say.

    Raises:
        SourceError: The rows lack a column.
    """
    if isinstance(rows, pa.Table):
        table = _select(rows, execution.columns)
    else:
        batches = list(RowReader(execution, {}).batches(list(rows)))
        table: Any = pa.Table.from_batches(batches) if batches else _no_columns(len(rows))
    if SPLIT_COLUMN not in table.column_names:
        table = table.append_column(SPLIT_COLUMN, pa.array(np.zeros(table.num_rows, np.uint8)))
    arrays = [_one_chunk(column) for column in table.columns]
    return pa.RecordBatch.from_arrays(arrays, names=table.column_names)


def _run_packed(
    plan: Plan, node: Node, rows: GivenRows, task: str, model: Model | str | Path | None
) -> tuple[list[Any], Problems]:
    packed = pack_rows(plan, task, rows)
    if node.op == "pack_documents":
        return list(packed.packs), packed.problems
    program = _program(plan, model)
    found: dict[int, Any] = {}
    whole: list[Any] = []
    values = {port: Value(node.id, port) for port in node.types}
    for pack in packed.packs:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            made = program.trace(list(values.values()), to_inputs(plan, pack, torch.device("cpu")))
        outputs = {port: made[value] for port, value in values.items()}
        for row, parts in _by_row(node, pack, outputs):
            found[row] = _only(parts)
        whole.append(_only(outputs))
    if packed.packs and not found:
        return whole, packed.problems
    return [found.get(row) for row in range(len(rows))], packed.problems


def _by_row(
    node: Node, pack: Pack, outputs: Mapping[str, Tensor]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield what belongs to each row; nothing, if an output is of the pack as a whole."""
    axes = {str(type_.shape[0]) if type_.shape else "" for type_ in node.types.values()}
    if len(axes) > 1 or not (axis := axes.pop()) or axis.isdecimal():
        return
    for number, row in enumerate(pack.rows[:, 1].tolist()):
        if axis in ("NS", "NT"):
            ranges = pack.source_ranges if axis == "NS" else pack.target_ranges
            start, stop = ranges[number].tolist()
            where = torch.arange(start, stop)
        else:
            start, stop = pack.source_ranges[number].tolist()
            first = pack.places[axis.removeprefix("N_")][:, 0]
            where = torch.from_numpy(np.flatnonzero((first >= start) & (first < stop)))
        yield row, {port: tensor[where] for port, tensor in outputs.items()}


def _program(plan: Plan, model: Model | str | Path | None) -> Program:
    if model is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Program(plan).eval()
    loaded = model if isinstance(model, Model) else Model.load(model)
    with torch.device("meta"):
        program = Program(plan)
    ours = program.state_dict()
    theirs = loaded.program.state_dict()
    program.load({name: theirs[name].cpu() for name in ours if name in theirs}, "the model")
    return program.eval()


def _find_template(plan: Plan, node: Node) -> tuple[str, int] | None:
    """Return task and number of the template whose document ``node`` composes, if it does that."""
    for task in plan.tasks:
        for number, documents in enumerate(plan.templates(task)):
            if node.id in {document.id for document in documents}:
                return task, number
    return None


def _choose_task(plan: Plan, task: str | None) -> str:
    tasks = plan.tasks
    if task is None and len(tasks) == 1:
        return tasks[0]
    if task is None:
        message = f"{len(tasks)} tasks meet in the pack: whose documents are to be packed?"
        raise PlanError.of("T0815", message, f'say task="{tasks[0]}", or another')
    if task in tasks:
        return task
    message = f'no task is named "{task}"'
    raise PlanError.of("T0219", message, suggest(task, tasks))


def _capacity(documents: Documents) -> Capacity:
    """Return a shape that holds the documents in few packs."""
    tile = UNKNOWN.tile
    sizes = [
        -(-np.maximum(lengths, 1) // tile) * tile
        for lengths in (documents.source_lengths, documents.target_lengths)
    ]
    source, target = (
        int(max(tiles.max(), min(tiles.sum(), _PACK_TOKENS // tile * tile))) for tiles in sizes
    )
    tensors = {lane: max(1, int(numbers.sum())) for lane, numbers in documents.tensors.items()}
    return Capacity(source=source, target=target, tensors=tensors, tile=tile)


def _select(rows: Any, columns: Sequence[str]) -> Any:
    known = rows.column_names
    if missing := [name for name in columns if name not in known]:
        raise SourceError(*(missing_column(name, known) for name in missing))
    wanted = [*columns, *({SPLIT_COLUMN} & {*known})]
    return rows.select(wanted) if wanted else _no_columns(rows.num_rows)


def _no_columns(num_rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(num_rows)})


def _load(plan: Plan) -> LoadArtifact:
    return plan.load or _load_nothing


def _load_nothing(kind: str, digest: str) -> object:
    raise PlanError.of("T0238", f"the plan knows no {kind} {digest}")


def _only(parts: Mapping[str, Any]) -> Any:
    return next(iter(parts.values())) if len(parts) == 1 else dict(parts)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
