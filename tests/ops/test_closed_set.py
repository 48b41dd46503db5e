"""A closed set is what training rows answer, and who answers otherwise is told."""

from __future__ import annotations

from functools import reduce
from random import Random

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.errors import OpError
from taskloom.ops.errors import RowErrors
from taskloom.ops.host.closed_set import ClosedSet, FitClosedSet, RestrictTexts
from taskloom.ops.host.split import TEST, TRAIN, VALID

rows = st.lists(st.tuples(st.text(max_size=3), st.sampled_from([TRAIN, VALID, TEST])))


def observe(op: FitClosedSet, given_rows: list[tuple[str, int]]) -> frozenset[str]:
    texts = pa.array([text for text, _ in given_rows], pa.string())
    return op.observe(texts, pa.array([split for _, split in given_rows], pa.uint8()))


def restrict(texts: list[str], *answers: str) -> pa.Array:
    return RestrictTexts()(pa.array(texts, pa.string()), ClosedSet(answers))


@given(rows, st.integers(1, 5), st.randoms())
def test_the_set_holds_the_training_answers_whatever_the_partitions(
    given_rows: list[tuple[str, int]], size: int, random: Random
) -> None:
    op = FitClosedSet()
    given_rows = [*given_rows, ("a", TRAIN)]
    shuffled = random.sample(given_rows, len(given_rows))
    states = (observe(op, shuffled[i : i + size]) for i in range(0, len(shuffled), size))
    fitted = ClosedSet.from_bytes(op.finish(reduce(op.merge, states)))
    assert fitted.answers == tuple(sorted({t for t, split in given_rows if split == TRAIN}))


@given(st.lists(st.text()))
def test_sets_come_back_from_their_bytes(answers: list[str]) -> None:
    closed_set = ClosedSet(tuple(answers))
    assert ClosedSet.from_bytes(closed_set.to_bytes()) == closed_set
    assert closed_set.to_bytes() == ClosedSet(tuple(reversed(answers))).to_bytes()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'"a"'])
def test_damaged_contents_are_refused(content: bytes) -> None:
    with pytest.raises(OpError, match=r"T0309.*no closed set"):
        ClosedSet.from_bytes(content)


def test_a_set_without_training_rows_is_refused() -> None:
    op = FitClosedSet()
    with pytest.raises(OpError, match="no training row has an answer"):
        op.finish(observe(op, [("a", TEST)]))


def test_free_text_is_no_closed_set() -> None:
    op = FitClosedSet(max_size=2)
    two = observe(op, [("a", TRAIN), ("b", TRAIN)])
    with pytest.raises(OpError, match="more than 2 distinct answers"):
        op.merge(two, observe(op, [("c", TRAIN)]))
    with pytest.raises(OpError, match="more than 2 distinct answers"):
        observe(op, [(letter, TRAIN) for letter in "abc"])
    with pytest.raises(OpError, match="max_size must be at least 1"):
        FitClosedSet(max_size=0)


@given(st.lists(st.sampled_from(["cat", "dog", ""])))
def test_known_answers_pass(texts: list[str]) -> None:
    assert restrict(texts, "dog", "cat", "").to_pylist() == texts


def test_every_unknown_answer_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(RowErrors) as caught:
        restrict(["cat", "catt", "xyz", "cat", "catt"], "dog", "cat")
    assert {offset: problem.message for offset, problem in caught.value.reasons.items()} == {
        1: '"catt" is not in the closed set, the nearest answer is "cat"',
        2: '"xyz" is not in the closed set',
        4: '"catt" is not in the closed set, the nearest answer is "cat"',
    }
    assert {problem.code for problem in caught.value.problems} == {"T0304"}
    assert "never occurs in training rows" in str(caught.value)


def test_the_nearest_of_very_many_answers_is_found_by_its_beginning() -> None:
    numbers = ClosedSet(tuple(f"number {i:06}" for i in range(100_000)))
    assert numbers.nearest("number 0420000") == "number 042000"


def test_long_answers_are_shortened() -> None:
    with pytest.raises(RowErrors) as caught:
        restrict(["long " * 100], "dog")
    assert all(len(line) < 120 for line in str(caught.value).splitlines())
