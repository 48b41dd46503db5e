"""Bad rows keep their offsets and their words, also across processes."""

from __future__ import annotations

import pickle

import pytest

from taskloom.graph.errors import Problem, TaskloomError
from taskloom.ops.errors import RowErrors, bad_row, describe_value

ERRORS = RowErrors({7: Problem("T0301", "broken"), 2: bad_row("T0306", "odd", b"notajpeg123")})


def test_bad_rows_stand_in_order_of_offset() -> None:
    assert list(ERRORS.reasons) == [2, 7]
    assert [problem.message for problem in ERRORS.problems] == ["odd", "broken"]


def test_bad_rows_cross_process_boundaries() -> None:
    returned = pickle.loads(pickle.dumps(ERRORS))
    assert type(returned) is RowErrors
    assert returned.reasons == ERRORS.reasons
    assert str(returned) == str(ERRORS)


def test_bad_rows_read_as_errors_that_name_row_and_value() -> None:
    assert isinstance(ERRORS, TaskloomError)
    assert str(ERRORS) == (
        "error[T0306]: odd\n"
        "  row 2 of the call    column 11 bytes, starts b'notajpeg'\n"
        "error[T0301]: broken\n"
        "  row 7 of the call"
    )


def test_a_place_fills_what_is_empty_and_keeps_offsets() -> None:
    placed = ERRORS.at(address="caption.img/decode", column="img")
    assert placed.reasons[7].column == "img"
    assert placed.reasons[2].column == "11 bytes, starts b'notajpeg'"
    assert {problem.address for problem in placed.problems} == {"caption.img/decode"}


def test_one_problem_stands_for_the_first_row() -> None:
    assert list(RowErrors.of("T0306", "odd").reasons) == [0]


@pytest.mark.parametrize(
    ("value", "description"),
    [
        pytest.param(b"", "0 bytes", id="no bytes"),
        pytest.param(b"x" * 5000, "5,000 bytes, starts b'xxxxxxxx'", id="many bytes"),
        pytest.param("zebra", "'zebra'", id="short text"),
        pytest.param("ab" * 30, f"60 characters, starts '{'ab' * 12}'", id="long text"),
        pytest.param(float("nan"), "nan", id="number"),
        pytest.param(None, "None", id="nothing"),
        pytest.param([1] * 1000, "a list", id="something else"),
    ],
)
def test_descriptions_stay_short(value: object, description: str) -> None:
    assert describe_value(value) == description
