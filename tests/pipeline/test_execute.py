"""Whatever rows are bad, exactly those are reported, and all others come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.draft import Draft
from taskloom.graph.errors import OpError, Problem, Site, Span, TaskloomError
from taskloom.graph.graph import Graph
from taskloom.graph.node import Value
from taskloom.graph.op import Traits
from taskloom.graph.type import ANY, Layout, Port, Signature
from taskloom.ops.errors import RowErrors, bad_row
from taskloom.ops.host.constant import MakeTexts
from taskloom.ops.host.filter import CompareValues
from taskloom.ops.host.image import DecodeImages, ResizeImages
from taskloom.ops.host.read import SPLIT_COLUMN, ReadColumns
from taskloom.ops.host.text import FormatTexts
from taskloom.pipeline.execute import Execution, Failure

from .rows import encode_png

NUMBER = Port("number", "int64")
SITE = Site("t:1", "[TEXT:x] -> [TEXT:y]", Span(0, 8))


def maps(*names: str) -> Signature:
    """Return the signature of an op over numbers."""
    return Signature(inputs=dict.fromkeys(names, Port(ANY, ANY)), outputs={"out": NUMBER})


@dataclass(frozen=True, slots=True)
class HalveNumbers:
    """Halve even numbers; one odd number spoils the whole call."""

    traits: ClassVar[Traits] = Traits("halve_numbers", version=1)
    signature: ClassVar[Signature] = maps("values")  # pyright: ignore[reportIncompatibleVariableOverride]

    def __call__(self, values: pa.Array) -> pa.Array:
        assert values.null_count == 0
        numbers = values.to_numpy()
        if odd := [n for n in numbers.tolist() if n % 2]:
            raise ArithmeticError(f"{odd[0]} is odd")
        return pa.array(numbers // 2)


@dataclass(frozen=True, slots=True)
class HalvePolitely:
    """Halve even numbers; name all odd ones at once, or one at a time."""

    is_thorough: bool = True
    traits: ClassVar[Traits] = Traits("halve_politely", version=1)
    signature: ClassVar[Signature] = maps("values")  # pyright: ignore[reportIncompatibleVariableOverride]

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
    signature: ClassVar[Signature] = maps("values")  # pyright: ignore[reportIncompatibleVariableOverride]

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
    signature: ClassVar[Signature] = maps("left", "right")  # pyright: ignore[reportIncompatibleVariableOverride]

    def __call__(self, left: pa.Array, right: pa.Array) -> pa.Array:
        return pa.array(left.to_numpy() + right.to_numpy())


@dataclass(frozen=True, slots=True)
class CountNulls:
    """Say which values are missing: 1 for those, 0 for others."""

    traits: ClassVar[Traits] = Traits("count_nulls", version=1, accepts_null=True)
    signature: ClassVar[Signature] = maps("values")  # pyright: ignore[reportIncompatibleVariableOverride]

    def __call__(self, values: pa.Array) -> pa.Array:
        return pa.array(np.asarray(values.is_null()).astype(np.int64))


@dataclass(frozen=True, slots=True)
class AddText:
    """Add the length of one text to every number."""

    traits: ClassVar[Traits] = Traits("add_text", version=1)
    signature: ClassVar[Signature] = Signature(  # pyright: ignore[reportIncompatibleVariableOverride]
        inputs={"values": Port(ANY, ANY), "text": Port("text", "string", (), Layout.CONST)},
        outputs={"out": NUMBER},
    )

    def __call__(self, values: pa.Array, text: pa.Array) -> pa.Array:
        return pa.array(values.to_numpy() + len(text[0].as_py()))


OPS: tuple[Any, ...] = (
    HalveNumbers,
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
        op = ReadColumns(column=column)
        return self.draft.add(op, rows="s", address=f"t.{column}", sites=[SITE])

    def add(self, op: Any, **inputs: Value) -> Value:
        return self.draft.add(op, inputs, address=f"t.x/{op.traits.name}", sites=[SITE])

    def run(self, batch: Mapping[str, Any], *outputs: Value) -> tuple[list[Any], list[Failure]]:
        """Return ``outputs`` as lists, and the failures."""
        graph: Graph = self.draft.graph({str(i): value for i, value in enumerate(outputs)})
        execution = Execution(graph, list(graph.nodes), CATALOGUE, load=_no_artifacts)
        values, failures = execution.run(pa.RecordBatch.from_pydict(dict(batch)))
        return [values[value].to_pylist() for value in outputs], failures


def _no_artifacts(kind: str, digest: str) -> object:
    raise AssertionError(f"nothing here loads {kind} {digest}")


def halve(op: Any, numbers: list[int | None]) -> tuple[list[int | None], list[Failure]]:
    """Return what a chain of one op makes of ``numbers``."""
    chain = Chain()
    halved = chain.add(op, values=chain.read())
    (made,), failures = chain.run({"x": pa.array(numbers, pa.int64())}, halved)
    return made, failures


numbers = st.lists(st.integers(-50, 50), max_size=70)
bad_ops = st.sampled_from([HalveNumbers(), HalvePolitely(), HalvePolitely(is_thorough=False)])


@given(numbers, st.integers(1, 70), bad_ops)
def test_exactly_the_bad_rows_fail_and_all_others_come_out(
    rows: list[int], batch_size: int, op: Any
) -> None:
    made: list[int | None] = []
    bad: list[int] = []
    for start in range(0, len(rows), batch_size):
        part, failures = halve(op, list(rows[start : start + batch_size]))
        made += part
        bad += [start + failure.offset for failure in failures]
    assert made == [None if n % 2 else n // 2 for n in rows]
    assert bad == [i for i, n in enumerate(rows) if n % 2]


@given(st.lists(st.none() | st.integers(-50, 50), max_size=70), bad_ops)
def test_missing_values_fail_for_their_column_and_never_reach_the_op(
    rows: list[int | None], op: Any
) -> None:
    made, failures = halve(op, rows)
    assert made == [None if n is None or n % 2 else n // 2 for n in rows]
    codes = {failure.offset: failure.problem.code for failure in failures}
    assert codes == {
        i: "T0302" if n is None else "T0303" for i, n in enumerate(rows) if n is None or n % 2
    }


def test_a_plain_error_is_told_with_its_type_node_column_and_place() -> None:
    _, (failure,) = halve(HalveNumbers(), [2, 4, 5, 6])
    assert failure.problem == Problem(
        "T0303",
        "ArithmeticError: 5 is odd",
        sites=(SITE,),
        address="t.x/halve_numbers",
        column="x",
    )


def test_a_named_row_keeps_its_help_and_a_description_of_its_value() -> None:
    _, (failure,) = halve(HalvePolitely(), [2, 5])
    assert failure.problem.help == "add one"
    assert failure.problem.column == "x (5)"
    assert failure.problem.address == "t.x/halve_politely"
    assert failure.problem.sites == (SITE,)


def test_a_missing_value_is_told_of_the_column_and_not_of_the_op() -> None:
    _, (failure,) = halve(HalveNumbers(), [2, None])
    assert failure.problem.address == "t.x"
    assert failure.problem.column == "x"
    assert failure.problem.message == "the value is missing"
    assert "where=" in failure.problem.help


def test_an_op_that_fails_on_no_rows_is_broken_and_its_node_is_named() -> None:
    with pytest.raises(OpError) as caught:
        halve(DropNumbers(how="fails"), [1, 2])
    (problem,) = caught.value.problems
    assert problem.code == "T0305"
    assert problem.message == "drop_numbers fails on no rows at all: RuntimeError: out of order"
    assert problem.address == "t.x/drop_numbers"
    assert problem.sites == (SITE,)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("how", ["drops", "nulls"])
def test_rows_that_an_op_loses_are_found(how: str) -> None:
    made, failures = halve(DropNumbers(how=how), [2, 3, 4, 5, 6])
    assert made == [2, None, 4, None, 6]
    assert [failure.offset for failure in failures] == [1, 3]
    assert all(failure.problem.address == "t.x/drop_numbers" for failure in failures)


def test_a_row_that_failed_once_fails_silently_downstream() -> None:
    chain = Chain()
    halved = chain.add(HalveNumbers(), values=chain.read())
    summed = chain.add(AddNumbers(), left=halved, right=chain.read())
    (made,), failures = chain.run({"x": [2, 3, 4]}, summed)
    assert made == [3, None, 6]
    assert [(f.offset, f.problem.address) for f in failures] == [(1, "t.x/halve_numbers")]


def test_a_value_that_two_ops_miss_is_told_once() -> None:
    chain = Chain()
    read = chain.read()
    outputs = [chain.add(HalveNumbers(), values=read), chain.add(FormatTexts(), values=read)]
    made, failures = chain.run({"x": pa.array([4, None], pa.int64())}, *outputs)
    assert made == [[2, None], ["4", None]]
    assert [(f.offset, f.problem.code) for f in failures] == [(1, "T0302")]


def test_two_columns_that_are_missing_in_one_row_are_both_told() -> None:
    chain = Chain()
    summed = chain.add(AddNumbers(), left=chain.read("x"), right=chain.read("y"))
    batch = {"x": pa.array([1, None, 3]), "y": pa.array([1, None, None], pa.int64())}
    (made,), failures = chain.run(batch, summed)
    assert made == [2, None, None]
    assert [(f.offset, f.problem.column) for f in failures] == [(1, "x"), (1, "y"), (2, "y")]


def test_ops_that_accept_missing_values_are_given_them() -> None:
    chain = Chain()
    counted = chain.add(CountNulls(), values=chain.add(HalveNumbers(), values=chain.read()))
    compared = chain.add(CompareValues(operator=">", value=2), values=chain.read())
    (nulls, kept), failures = chain.run({"x": pa.array([2, None, 3, 4])}, counted, compared)
    assert nulls == [0, 1, 1, 0]
    assert kept == [False, False, True, True]
    assert [(f.offset, f.problem.code) for f in failures] == [(1, "T0302"), (2, "T0303")]


def test_a_constant_is_given_to_every_call_whole() -> None:
    chain = Chain()
    text = chain.draft.add(MakeTexts(text="abc"), address="t.text@0")
    added = chain.add(AddText(), values=chain.read(), text=text)
    (made,), failures = chain.run({"x": pa.array([1, None])}, added)
    assert made == [4, None]
    assert [failure.problem.code for failure in failures] == ["T0302"]


def test_images_that_cannot_be_decoded_leave_the_others_in_place() -> None:
    chain = Chain()
    decoded = chain.add(DecodeImages(), values=chain.read())
    resized = chain.add(ResizeImages(height=1, width=1), images=decoded)
    files = [encode_png(np.full((2, 2, 3), 10 * i, np.uint8)) for i in range(4)]
    (made,), failures = chain.run({"x": [files[0], b"notajpeg", None, files[3]]}, resized)
    assert made == [[0, 0, 0], None, None, [30, 30, 30]]
    assert [(f.offset, f.problem.code) for f in failures] == [(1, "T0301"), (2, "T0302")]
    assert failures[0].problem.column == "x (8 bytes, starts b'notajpeg')"


@pytest.mark.parametrize("rows", [[], [b"notajpeg"] * 3, [None] * 3], ids=["no", "bad", "missing"])
def test_a_batch_without_any_good_row_has_the_right_type(rows: list[bytes | None]) -> None:
    chain = Chain()
    decoded = chain.add(DecodeImages(), values=chain.read())
    resized = chain.add(ResizeImages(height=2, width=1), images=decoded)
    graph = chain.draft.graph({"out": resized})
    execution = Execution(graph, list(graph.nodes), CATALOGUE, load=_no_artifacts)
    batch = pa.RecordBatch.from_pydict({"x": pa.array(rows, pa.binary())})
    values, failures = execution.run(batch)
    assert values[resized].type == pa.fixed_shape_tensor(pa.uint8(), (2, 1, 3))
    assert values[resized].null_count == len(values[resized]) == len(rows) == len(failures)


def test_a_column_of_another_type_than_planned_is_refused_with_its_node() -> None:
    chain = Chain()
    read = chain.draft.add(ReadColumns(column="x", dtype="int64"), rows="s", address="t.x")
    with pytest.raises(OpError, match="changed its type") as caught:
        chain.run({"x": ["a"]}, read)
    assert caught.value.problems[0].address == "t.x"


def test_only_the_columns_that_are_needed_are_read() -> None:
    chain = Chain()
    summed = chain.add(AddNumbers(), left=chain.read("x"), right=chain.read("y"))
    graph = chain.draft.graph({"out": summed})
    execution = Execution(graph, list(graph.nodes), CATALOGUE, load=_no_artifacts)
    assert execution.columns == ("x", "y")
    assert SPLIT_COLUMN not in execution.columns


def test_an_error_that_is_ours_already_keeps_its_code() -> None:
    with pytest.raises(TaskloomError, match="T0305.*cannot be compared|T0305.*cannot be asked"):
        chain = Chain()
        compared = chain.add(CompareValues(operator=">", value=2), values=chain.read())
        chain.run({"x": ["a", "b"]}, compared)
