"""Scores count every row, and are read against what costs nothing."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.errors import OpError
from taskloom.ops.metric import accuracy, chance_corrected, majority

answers = st.sampled_from(["a", "b", "c"]) | st.none()


@given(st.lists(st.tuples(answers, answers), min_size=1))
def test_accuracy_is_the_share_of_equal_answers(pairs: list[tuple[str | None, str | None]]) -> None:
    predictions, references = zip(*pairs, strict=True)
    right = [p == r for p, r in pairs if p is not None]
    assert accuracy(predictions, references) == pytest.approx(sum(right) / len(pairs))


def test_a_row_without_an_answer_is_wrong_even_where_none_is_known() -> None:
    assert accuracy([None, "a"], [None, "a"]) == 0.5


@given(st.lists(answers, min_size=1), st.lists(answers, min_size=1))
def test_the_majority_is_the_best_of_all_constant_answers_on_its_own_rows(
    train: list[str | None], test: list[str | None]
) -> None:
    constants = [accuracy([c] * len(train), train) for c in ("a", "b", "c")]
    assert majority(train, train) == max(constants)
    assert majority(train, test) == majority(train[::-1], test)


def test_equally_common_answers_are_settled_by_the_alphabet() -> None:
    assert majority(["b", "a"], ["a", "a", "b", "c"]) == 0.5


def test_without_training_rows_the_majority_is_never_right() -> None:
    assert majority([], ["a"]) == 0


@pytest.mark.parametrize(
    ("score", "baseline", "expected"), [(1, 0.4, 1), (0.4, 0.4, 0), (0.7, 0.4, 0.5), (1, 1, 0)]
)
def test_chance_corrected(score: float, baseline: float, expected: float) -> None:
    assert chance_corrected(score, baseline) == pytest.approx(expected)


@given(st.floats(0, 1), st.floats(0, 0.99))
def test_below_the_baseline_is_below_nothing(score: float, baseline: float) -> None:
    assert (chance_corrected(score, baseline) < 0) == (score < baseline)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [(["a"], ["a", "b"], "1 predictions for 2 references"), ([], [], "no rows to score")],
)
def test_scores_of_nothing_are_refused(
    predictions: list[str], references: list[str], message: str
) -> None:
    with pytest.raises(OpError, match=message):
        accuracy(predictions, references)
