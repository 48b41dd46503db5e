"""Handles: one node of a plan, to be run on rows from a prompt.

>>> plan["caption.img/resize"].head(source, 3)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from ...graph.errors import PlanError, Problem, RowError
from ...graph.node import Node
from ...graph.type import Type
from ...storage.head import read_head
from ..task import Source, SourceData, Task

OnError: TypeAlias = Literal["raise", "return"]


@dataclass(frozen=True, slots=True, repr=False)
class NodeHandle:
    """One node of a plan; get one from the plan, by address.

    What a node gives is shown as a person holds it: texts as `str`, ids as lists, arrays of numbers as NumPy's,
    a document as a `Document`. The pack gives packs, and nodes behind it tensors: the row's own positions where
    an output has any, otherwise one for each pack.

    Attributes:
        plan: The plan, which gives handles and so cannot be named here.
        node: The node.
    """

    plan: Any
    node: Node

    @property
    def address(self) -> str:
        """Where the node stands, by the first of its addresses."""
        return self.node.address

    @property
    def key(self) -> str:
        """The plan key."""
        return self.node.key

    @property
    def type(self) -> Type | Mapping[str, Type]:
        """Type of what the node gives, by port if there are several."""
        types = self.node.types
        return self.node.type if len(types) == 1 else types

    def __repr__(self) -> str:
        params = " ".join(f"{name}={value}" for name, value in self.node.params.items())
        types = ", ".join(map(str, self.node.types.values()))
        called = f"{self.node.op} {params}".strip()
        return f"<{self.address}: {called} -> {types}>"

    def head(
        self,
        source: Source | Task | SourceData,
        n: int = 3,
        *,
        task: str | None = None,
        model: Any = None,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """Return what the node makes of the first ``n`` rows of ``source``.

        Only these rows are read, and only what the node needs is computed.

        Args:
            source: A source, a task that has one, or what a source may be made of: files, rows, a function that
                gives rows. An iterator is used up as far as it is read.
            n: Most rows.
            task: Whose documents to pack, for nodes behind the pack where there are several tasks.
            model: A `Model`, or the directory of a run, whose parameters device nodes compute with; parameters
                drawn with seed 0 otherwise.
            on_error: Whether rows that cannot be computed raise one error that names them all, or stand as
                errors among the values.

        Raises:
            RowError: Some rows cannot be computed.
            SourceError: The rows cannot be read, or lack a column.
            PlanError: The node needs what is still to be fitted (T0238), or documents of no known task (T0815).
        """
        rows = read_head(_data(source), n)
        return self.values(rows, task=task, model=model, on_error=on_error)

    def values(
        self,
        rows: pa.Table | Iterable[Mapping[str, object]],
        *,
        task: str | None = None,
        model: Any = None,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """Return what the node makes of ``rows``, which have the columns it needs; the rest as in `head`."""
        given: Any = rows if isinstance(rows, pa.Table) else list(rows)
        # It needs plans, and plans give handles: a circle, if it were imported above.
        run: Any = importlib.import_module("..viewer.run_to", __package__)
        values, problems = run.run_to(self.plan, self.node, given, task=task, model=model)
        if problems and on_error == "raise":
            raise RowError(*(problem for each in problems.values() for problem in each))
        if len(values) == len(given):
            for row, bad in problems.items():
                values[row] = RowError(*bad)
        return values


def _data(source: Source | Task | SourceData) -> Any:
    if isinstance(source, Task):
        if source.source is None:
            message, help_ = f'task "{source.name}" has no source', "give rows, or files"
            raise PlanError(Problem("T0218", message, help_, address=source.name))
        source = source.source
    return source.data if isinstance(source, Source) else source
