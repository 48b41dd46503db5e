"""Conditions keep the rows they say, and never a missing value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.errors import OpError, PlanError
from taskloom.graph.op import Plain
from taskloom.ops.host.filter import CompareValues, parse_where

PYTHON: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
constants = st.integers(-(2**31), 2**31) | st.floats(
    allow_nan=False, allow_infinity=False, width=32
)
numbers = constants | st.sampled_from([float("inf"), -float("inf")])


@given(st.lists(st.none() | numbers), constants, st.sampled_from(sorted(PYTHON)))
def test_numbers_compare_as_in_python_and_missing_ones_never_pass(
    values: list[float | None], constant: float, symbol: str
) -> None:
    kept = CompareValues(operator=symbol, value=constant)(pa.array(values, pa.float64()))
    compare = PYTHON[symbol]
    assert kept.to_pylist() == [v is not None and compare(v, constant) for v in values]


@given(st.lists(st.none() | st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_in_keeps_members(values: list[str | None], members: list[str]) -> None:
    kept = CompareValues(operator="in", value=tuple(members))(pa.array(values, pa.string()))
    assert kept.to_pylist() == [v is not None and v in members for v in values]


@pytest.mark.parametrize(
    ("text", "column", "op"),
    [
        ("rating >= 0.5", "rating", CompareValues(operator=">=", value=0.5)),
        ("  count<-3 ", "count", CompareValues(operator="<", value=-3)),
        ("is_clean", "is_clean", CompareValues(operator="is_true")),
        ("not is_noisy", "is_noisy", CompareValues(operator="==", value=False)),
        ("notable", "notable", CompareValues(operator="is_true")),
        ("is_clean == true", "is_clean", CompareValues(operator="==", value=True)),
        ("lang == 'en'", "lang", CompareValues(operator="==", value="en")),
        ('lang != "a >= b"', "lang", CompareValues(operator="!=", value="a >= b")),
        ("lang in ['en', 'de']", "lang", CompareValues(operator="in", value=("en", "de"))),
        ("`mean rating` > 1", "mean rating", CompareValues(operator=">", value=1)),
        ("meta.year >= 2001", "meta.year", CompareValues(operator=">=", value=2001)),
    ],
)
def test_conditions_say_what_they_mean(text: str, column: str, op: CompareValues) -> None:
    assert parse_where(text) == (column, op)


@pytest.mark.parametrize(
    ("text", "underlined"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("rating = 3", "rating = 3", id="one equals sign"),
        pytest.param("rating >=", "rating >=", id="no value"),
        pytest.param("3 < rating", "3 < rating", id="the wrong way round"),
        pytest.param(" lang == en", "en", id="text without quotes"),
        pytest.param("a > 1 and b > 2", "1 and b > 2", id="two at once"),
        pytest.param("lang in 'en'", "'en'", id="in no list"),
        pytest.param("rating > [1]", "[1]", id="more than a list"),
        pytest.param("rating > 1e999", "1e999", id="infinite"),
        pytest.param("x == __import__('os')", "__import__('os')", id="code"),
        pytest.param("x == None", "None", id="missing"),
    ],
)
def test_a_condition_that_is_not_understood_is_underlined(text: str, underlined: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_where(text)
    (problem,) = caught.value.problems
    (site,) = problem.sites
    assert problem.code == "T0210"
    assert text[site.span.start : site.span.stop] == underlined
    assert "write one of: rating >= 0.5" in str(caught.value)


@pytest.mark.parametrize(
    ("op", "values"),
    [
        pytest.param(CompareValues(operator=">", value=1), pa.array(["2"]), id="text as number"),
        pytest.param(CompareValues(operator="==", value="1"), pa.array([1]), id="number as text"),
        pytest.param(CompareValues(operator="is_true"), pa.array([1]), id="number as boolean"),
        pytest.param(CompareValues(operator="==", value=1), pa.array([True]), id="boolean as 1"),
        pytest.param(CompareValues(operator="==", value="a"), pa.array([["a"]]), id="list"),
        pytest.param(CompareValues(operator="<", value=10**30), pa.array([1]), id="too large"),
    ],
)
def test_unlike_things_are_not_compared(op: CompareValues, values: pa.Array) -> None:
    with pytest.raises(OpError, match=r"T0308.*cannot be asked"):
        op(values)


def test_an_all_missing_column_keeps_nothing() -> None:
    assert CompareValues(operator="is_true")(pa.nulls(2)).to_pylist() == [False, False]


def test_flags_of_dictionaries_and_views_compare_like_texts() -> None:
    for dtype in (pa.dictionary(pa.int8(), pa.string()), pa.large_string()):
        values = pa.array(["en", None, "de"]).cast(dtype)
        assert CompareValues(operator="==", value="en")(values).to_pylist() == [True, False, False]


@pytest.mark.parametrize(
    ("symbol", "value"), [("=~", "a"), ("in", 3), ("is_true", 1), ("<", None), ("==", (1,))]
)
def test_impossible_comparisons_are_refused(symbol: str, value: Plain) -> None:
    with pytest.raises(OpError, match="T0307"):
        CompareValues(operator=symbol, value=value)
