"""The rows of a mixture as they lie in a store: which each task has, and the columns they are read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ...graph.errors import PlanError, Problem, StoreError
from ...graph.node import Node, Value
from ...graph.recipe import Pinned
from ...graph.type import source_of
from ...ops.artifact import load_artifact
from ...ops.device.config import ModelConfig
from ...ops.host.split import TEST, TRAIN, VALID
from ...ops.pack_layout import UNKNOWN, PackLayout
from ...storage.length import item_starts
from ...storage.reader import ColumnReader, open_column
from ...storage.store import Store
from ...storage.template import Template
from ..host.execute import LoadArtifact
from ..planner.document import column_dtypes, make_templates
from ..planner.planning import Plan, plan
from ..task import Mixture

Split: TypeAlias = Literal["train", "valid", "test"]

SPLIT_CODES: Mapping[Split, int] = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """The rows of one task in one split.

    Attributes:
        templates: What its documents are made of.
        expected: Global rows that belong to the split and pass the filters, computable or not.
        usable: Those of them that have a value in every column.
    """

    templates: tuple[Template, ...]
    expected: npt.NDArray[np.int64]
    usable: npt.NDArray[np.int64]


def known_columns(mixture: Mixture, store: Store) -> dict[str, dict[str, str]]:
    """Return the element types of the columns of every source of ``mixture``.

    Raises:
        StoreError: A source is not in the store.
    """
    names = {task.name: task.named_source().name for task in mixture.tasks}
    known = set(store.sources())
    if missing := [task for task, source in names.items() if source not in known]:
        help_ = "build the store with these tasks first"
        raise StoreError(
            *(
                Problem(
                    "T0511",
                    f'task "{task}" is not built: {store} lacks its source "{names[task]}"',
                    help_,
                    address=task,
                )
                for task in missing
            )
        )
    return {
        name: column_dtypes(store.source(name).schema) for name in dict.fromkeys(names.values())
    }


def pinned_artifacts(store: Store) -> dict[str, Pinned]:
    """Return the artifacts of ``store`` by name."""
    return {
        name: Pinned(kind=artifact.kind, digest=artifact.digest)
        for name, artifact in store.artifacts().items()
    }


def artifact_loader(store: Store) -> LoadArtifact:
    """Return a function that loads artifacts of ``store``, each once."""
    loaded: dict[str, object] = {}

    def load(kind: str, digest: str) -> object:
        if digest not in loaded:
            loaded[digest] = load_artifact(kind, store.artifact_content(digest))
        return loaded[digest]

    return load


def open_dataset(mixture: Mixture, store: Store, model: ModelConfig | None = None) -> Dataset:
    """Plan ``mixture`` as ``store`` holds it, and open its columns.

    Raises:
        StoreError: Some task is not built, or was built otherwise than it stands now.
    """
    planned = plan_stored(mixture, store, model=model)
    if planned.fits:
        names = ", ".join(sorted(planned.fits))
        tasks = ", ".join(task.name for task in mixture.tasks)
        message = f"{store} is not built for {tasks}: it lacks {names}"
        raise StoreError.of("T0511", message, "build the store with these tasks first")
    return Dataset.open(planned, store)


def plan_stored(
    mixture: Mixture,
    store: Store,
    *,
    model: ModelConfig | None = None,
    layout: PackLayout = UNKNOWN,
) -> Plan:
    """Plan ``mixture`` for training with the sources and artifacts that ``store`` holds."""
    return plan(
        mixture,
        "train",
        model=model,
        columns=known_columns(mixture, store),
        pinned=pinned_artifacts(store),
        load=artifact_loader(store),
        layout=layout,
    )


@dataclass(frozen=True, slots=True)
class Dataset:
    """The stored columns of a plan, open.

    Attributes:
        plan: A plan in mode ``train``, all of whose artifacts exist.
        columns: Open columns by source and column id.
    """

    plan: Plan
    columns: Mapping[tuple[str, str], ColumnReader]

    @classmethod
    def open(cls, plan: Plan, store: Store) -> Dataset:
        """Open every column that ``plan`` reads.

        Raises:
            StoreError: Some columns were never built, or not for all partitions of their source; every task
                that lacks something is named.
        """
        problems: list[Problem] = []
        columns: dict[tuple[str, str], ColumnReader] = {}
        for task in plan.tasks:
            for value, port in plan.stored_of(task).items():
                source, column = source_of(value.node.rows), value.column_id
                if (source, column) in columns:
                    continue
                partitions = [p.id for p in store.source(source).partitions]
                if lacking := store.missing(source, column, partitions):
                    address = plan.graph.nodes[value.node].address
                    message = (
                        f'task "{task}" is not built: {address} lacks {len(lacking)} of '
                        f"{len(partitions)} partitions"
                    )
                    help_ = "build the store again with these tasks; nothing else is rebuilt"
                    problems.append(Problem("T0511", message, help_, address=address, column=port))
                else:
                    columns[source, column] = open_column(store, source, column, partitions)
        if problems:
            raise StoreError(*problems)
        return cls(plan, columns)

    def rows(self, task: str, split: Split) -> TaskRows:
        """Return the rows of ``task`` in ``split``."""
        splits = self._splits(task)
        belongs = (splits.scalars() == SPLIT_CODES[split]) & splits.valid
        kept, complete = self._kept(task), self._complete(task)
        return TaskRows(
            templates=make_templates(self.plan, task),
            expected=np.flatnonzero(belongs & kept),
            usable=np.flatnonzero(belongs & kept & complete),
        )

    def count(self, task: str) -> tuple[int, int]:
        """Return how many rows the filters of ``task`` keep, and how many of those lack a value."""
        kept = self._kept(task)
        return int(kept.sum()), int((kept & ~self._complete(task)).sum())

    def target(self, task: str, slot: str) -> tuple[ColumnReader, npt.NDArray[np.int64] | None]:
        """Return the column that a target slot of ``task`` is read from.

        Of a slot in a group the column has a row for each item; where those of each row begin is returned too.

        Raises:
            PlanError: The plan reads no such slot.
        """
        value, count = self._find_target(task, slot)
        return self._reader(value), None if count is None else item_starts(self._reader(count))

    def target_block(self, task: str, slot: str) -> str:
        """Return the block that the ids of a target slot of ``task`` are of.

        Raises:
            PlanError: The plan reads no such slot.
        """
        value, _ = self._find_target(task, slot)
        return self.plan.graph.type_of(value).kind

    def _find_target(self, task: str, slot: str) -> tuple[Value, Value | None]:
        """Return the ids of a target slot, and the number of items in each row if it stands in a group."""
        for node in (*self.plan.documents(task), *self._groups(task)):
            entries: Any = node.params.get("target", node.params.get("items"))
            for entry in entries:
                if entry.get("slot") == slot and "port" in entry:
                    return node.inputs[entry["port"]], node.inputs.get("count")
        raise PlanError.of("T0233", f'task "{task}" reads no target "{slot}"')

    def _kept(self, task: str) -> npt.NDArray[np.bool_]:
        """Return which rows pass the filters of ``task``.

        A filter that could not be computed keeps the row: better counted as wrong than lost.
        """
        stored = self.plan.stored_of(task)
        filters = [self._reader(v) for v, port in stored.items() if port.startswith("keep.")]
        every = np.ones(self._splits(task).num_rows, np.bool_)
        return reduce(np.logical_and, (f.scalars() | ~f.valid for f in filters), every)

    def _complete(self, task: str) -> npt.NDArray[np.bool_]:
        """Return which rows have a value in every column of ``task``, and in all of their items."""
        complete = np.ones(self._splits(task).num_rows, np.bool_)
        for value in self.plan.stored_of(task):
            valid = self._reader(value).valid
            if value.node.rows == source_of(value.node.rows):
                complete &= valid
        for node in self._groups(task):
            starts = item_starts(self._reader(node.inputs["count"]))
            for port, value in node.inputs.items():
                if port != "count" and value.node.rows:
                    num_bad = np.concatenate([[0], np.cumsum(~self._reader(value).valid)])
                    complete &= np.diff(num_bad[starts]) == 0
        return complete

    def _groups(self, task: str) -> list[Node]:
        """Return the nodes that join the items of each row of ``task``."""
        graph = self.plan.graph
        read = (value for node in self.plan.documents(task) for value in node.inputs.values())
        return [node for value in read if (node := graph.nodes[value.node]).op == "group_items"]

    def _splits(self, task: str) -> ColumnReader:
        return self._reader(self.plan.documents(task)[0].inputs["split"])

    def _reader(self, value: Value) -> ColumnReader:
        return self.columns[source_of(value.node.rows), value.column_id]
