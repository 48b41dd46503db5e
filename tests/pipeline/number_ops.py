"""Ops over numbers that fail in every way, and a graph of a few of them to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from taskloom.graph.draft import Draft
from taskloom.graph.errors import Site, Span
from taskloom.graph.graph import Graph
from taskloom.graph.node import Value
from taskloom.graph.op import Traits
from taskloom.graph.type import ANY, Layout, Port, Signature
from taskloom.ops.errors import RowErrors, bad_row
from taskloom.ops.host.constant import MakeTexts
from taskloom.ops.host.filter import CompareValues
from taskloom.ops.host.image import DecodeImages, ResizeImages
from taskloom.ops.host.read import ReadColumns
from taskloom.ops.host.text import FormatTexts
from taskloom.pipeline.host.execute import Execution, Failure

NUMBER = Port("number", "int64")
SITE = Site("t:1", "[TEXT:x] -> [TEXT:y]", Span(0, 8))


def maps(*names: str) -> Signature:
    """Return the signature of an op over numbers."""
    return Signature(inputs=dict.fromkeys(names, Port(ANY, ANY)), outputs={"out": NUMBER})


@dataclass(frozen=True, slots=True)
class HalveNumbers:
    """Halve even numbers; one odd number spoils the whole call."""

    traits: ClassVar[Traits] = Traits("halve_numbers", version=1)
    signature: ClassVar[Signature] = maps("values")

    def __call__(self, values: pa.Array) -> pa.Array:
        assert values.null_count == 0
        numbers = values.to_numpy()
        if odd := [n for n in numbers.tolist() if n % 2]:
            raise ArithmeticError(f"{odd[0]} is odd")
        return pa.array(numbers // 2)


@dataclass(frozen=True, slots=True)
class HalveAndCount:
    """Halve even numbers as `HalveNumbers` does; note how many numbers each call is given."""

    traits: ClassVar[Traits] = Traits("halve_and_count", version=1)
    signature: ClassVar[Signature] = maps("values")
    sizes: ClassVar[list[int]] = []

    def __call__(self, values: pa.Array) -> pa.Array:
        self.sizes.append(len(values))
        numbers = values.to_numpy()
        if len(odd := numbers[numbers % 2 == 1]):
            raise ArithmeticError(f"{odd[0]} is odd")
        return pa.array(numbers // 2)


@dataclass(frozen=True, slots=True)
class HalvePolitely:
    """Halve even numbers; name all odd ones at once, or one at a time."""

    is_thorough: bool = True
    traits: ClassVar[Traits] = Traits("halve_politely", version=1)
    signature: ClassVar[Signature] = maps("values")

    def __call__(self, values: pa.Array) -> pa.Array:
        numbers = values.to_numpy()
        odd = np.flatnonzero(numbers % 2)[: None if self.is_thorough else 1].tolist()
        if odd:
            raise RowErrors({i: bad_row("T0303", "odd", values[i], "add one") for i in odd})
        return pa.array(numbers // 2)


@dataclass(frozen=True, slots=True)
class DropNumbers:
    """Break the promise of an op: drop numbers, or fail on nothing at all, or give nulls."""

    how: str
    traits: ClassVar[Traits] = Traits("drop_numbers", version=1)
    signature: ClassVar[Signature] = maps("values")

    def __call__(self, values: pa.Array) -> pa.Array:
        if self.how == "fails":
            raise RuntimeError("out of order")
        if self.how == "drops":
            return values.filter(pa.array(values.to_numpy() % 2 == 0))
        numbers = values.to_numpy()
        return pa.array(numbers, mask=numbers % 2 == 1)


@dataclass(frozen=True, slots=True)
class AddNumbers:
    """Add two numbers; where nulls are accepted they count as zero."""

    traits: ClassVar[Traits] = Traits("add_numbers", version=1)
    signature: ClassVar[Signature] = maps("left", "right")

    def __call__(self, left: pa.Array, right: pa.Array) -> pa.Array:
        return pa.array(left.to_numpy() + right.to_numpy())


@dataclass(frozen=True, slots=True)
class CountNulls:
    """Say which values are missing: 1 for those, 0 for others."""

    traits: ClassVar[Traits] = Traits("count_nulls", version=1, accepts_null=True)
    signature: ClassVar[Signature] = maps("values")

    def __call__(self, values: pa.Array) -> pa.Array:
        return pa.array(np.asarray(values.is_null()).astype(np.int64))


@dataclass(frozen=True, slots=True)
class AddText:
    """Add the length of one text to every number."""

    traits: ClassVar[Traits] = Traits("add_text", version=1)
    signature: ClassVar[Signature] = Signature(
        inputs={"values": Port(ANY, ANY), "text": Port("text", "string", (), Layout.CONST)},
        outputs={"out": NUMBER},
    )

    def __call__(self, values: pa.Array, text: pa.Array) -> pa.Array:
        return pa.array(values.to_numpy() + len(text[0].as_py()))


OPS: tuple[Any, ...] = (
    HalveNumbers,
    HalveAndCount,
    HalvePolitely,
    DropNumbers,
    AddNumbers,
    CountNulls,
    AddText,
    ReadColumns,
    MakeTexts,
    CompareValues,
    DecodeImages,
    ResizeImages,
    FormatTexts,
)
CATALOGUE: Mapping[str, Any] = {op.traits.name: op for op in OPS}


class Chain:
    """A graph in the making, over the rows of one source."""

    def __init__(self) -> None:
        self.draft = Draft(CATALOGUE)

    def read(self, column: str = "x") -> Value:
        """Add a column of the source."""
        op = ReadColumns(column=column)
        return self.draft.add(op, rows="s", address=f"t.{column}", sites=[SITE])

    def add(self, op: Any, **inputs: Value) -> Value:
        """Add an op."""
        return self.draft.add(op, inputs, address=f"t.x/{op.traits.name}", sites=[SITE])

    def execution(self, *outputs: Value) -> Execution:
        """Return the nodes so far, ready to run."""
        graph: Graph = self.draft.graph({str(i): value for i, value in enumerate(outputs)})
        return Execution(graph, list(graph.nodes), CATALOGUE, load=_no_artifacts)

    def run(self, batch: Mapping[str, Any], *outputs: Value) -> tuple[list[Any], list[Failure]]:
        """Return ``outputs`` as lists, and the failures."""
        execution = self.execution(*outputs)
        values, failures = execution.run(pa.RecordBatch.from_pydict(dict(batch)))
        return [values[value].to_pylist() for value in outputs], failures


def _no_artifacts(kind: str, digest: str) -> object:
    raise AssertionError(f"nothing here loads {kind} {digest}")
