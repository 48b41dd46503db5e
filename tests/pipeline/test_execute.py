"""Whatever rows are bad, exactly those are reported, and all others come out."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.errors import OpError, Problem, Site
from taskloom.ops.host.constant import MakeTexts
from taskloom.ops.host.filter import CompareValues
from taskloom.ops.host.image import DecodeImages, ResizeImages
from taskloom.ops.host.read import ReadColumns
from taskloom.ops.host.text import FormatTexts
from taskloom.pipeline.host.execute import Failure

from .number_ops import (
    SITE,
    AddNumbers,
    AddText,
    Chain,
    CountNulls,
    DropNumbers,
    HalveNumbers,
    HalvePolitely,
)
from .rows import encode_png


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


def test_bad_rows_of_a_node_that_a_thousand_tasks_share_carry_its_places_once() -> None:
    chain = Chain()
    sites = [Site(f"task-{i:04}:1", SITE.text, SITE.span) for i in range(1000)]
    read = chain.draft.add(ReadColumns(column="x"), rows="s", address="t.x", sites=sites)
    _, failures = chain.run(
        {"x": pa.array([None] * 20, pa.int64())}, chain.add(HalveNumbers(), values=read)
    )
    assert len(failures) == 20
    assert all(failure.problem.sites is failures[0].problem.sites for failure in failures)
    assert failures[0].problem.sites == tuple(sites)
    assert "  --> and 997 more instructions\n" in str(failures[0].problem)


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
    batch = pa.RecordBatch.from_pydict({"x": pa.array(rows, pa.binary())})
    values, failures = chain.execution(resized).run(batch)
    assert values[resized].type == pa.fixed_shape_tensor(pa.uint8(), (2, 1, 3))
    assert values[resized].null_count == len(values[resized]) == len(rows) == len(failures)


def test_a_column_of_another_type_than_planned_is_refused_with_its_node() -> None:
    chain = Chain()
    read = chain.draft.add(ReadColumns(column="x", dtype="int64"), rows="s", address="t.x")
    with pytest.raises(OpError, match="changed its type") as caught:
        chain.run({"x": ["a"]}, read)
    assert caught.value.problems[0].address == "t.x"


def test_a_node_knows_the_columns_that_it_is_computed_from() -> None:
    chain = Chain()
    summed = chain.add(AddNumbers(), left=chain.read("x"), right=chain.read("y"))
    chain.read("z")
    assert set(chain.execution(summed).columns_of(summed.node)) == {"x", "y"}


def test_a_comparison_that_makes_no_sense_is_the_fault_of_no_row() -> None:
    chain = Chain()
    compared = chain.add(CompareValues(operator=">", value=2), values=chain.read())
    with pytest.raises(OpError, match=r"T0305.*cannot be asked"):
        chain.run({"x": ["a", "b"]}, compared)
