"""Values have one spelling, and tidy texts stay as they are."""

from __future__ import annotations

import math
import string
import unicodedata

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.errors import OpError
from taskloom.ops.errors import RowErrors
from taskloom.ops.host.text import FormatTexts, NormalizeTexts, StripTexts

texts = st.lists(st.text(max_size=12))
normalizers = st.builds(NormalizeTexts, is_lowercase=st.booleans(), has_punctuation=st.booleans())


def normalize(op: NormalizeTexts, *given_texts: str) -> list[str]:
    return op(pa.array(given_texts, pa.string())).to_pylist()


@given(st.lists(st.integers(-(2**53), 2**53)))
def test_an_integer_is_spelled_alike_in_every_column(numbers: list[int]) -> None:
    expected = list(map(str, numbers))
    assert FormatTexts()(pa.array(numbers, pa.int64())).to_pylist() == expected
    assert FormatTexts()(pa.array(map(float, numbers), pa.float64())).to_pylist() == expected


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_a_float_is_spelled_exactly(numbers: list[float]) -> None:
    spelled = FormatTexts()(pa.array(numbers, pa.float64())).to_pylist()
    assert list(map(float, spelled)) == numbers


@given(texts)
def test_texts_are_their_own_spelling(given_texts: list[str]) -> None:
    assert FormatTexts()(pa.array(given_texts, pa.string())).to_pylist() == given_texts


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(pa.array([True, False]), ["true", "false"], id="booleans"),
        pytest.param(pa.array([-0.0, 0.5]), ["0", "0.5"], id="minus nothing"),
        pytest.param(pa.array([0.1, 7.0], pa.float32()), ["0.1", "7"], id="short floats"),
        pytest.param(pa.array([7, 255], pa.uint8()), ["7", "255"], id="bytes"),
        pytest.param(pa.array(["a", "b"], pa.large_string()), ["a", "b"], id="large texts"),
        pytest.param(pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"], id="classes"),
        pytest.param(pa.nulls(0), [], id="a column without any value"),
    ],
)
def test_spellings(values: pa.Array, expected: list[str]) -> None:
    assert FormatTexts()(values).to_pylist() == expected


def test_numbers_that_are_none_are_bad_rows() -> None:
    with pytest.raises(RowErrors) as caught:
        FormatTexts()(pa.array([1.0, math.nan, 2.0, -math.inf]))
    assert {i: p.column for i, p in caught.value.reasons.items()} == {1: "nan", 3: "-inf"}


@pytest.mark.parametrize("values", [pa.array([b"a"]), pa.array([["a"]]), pa.array([{"a": 1}])])
def test_a_column_of_no_texts_is_refused_as_a_whole(values: pa.Array) -> None:
    for column in (values, values.slice(0, 0)):
        with pytest.raises(OpError, match="cannot be written as text"):
            FormatTexts()(column)


@given(normalizers, texts)
def test_normalising_twice_changes_nothing_more(op: NormalizeTexts, given_texts: list[str]) -> None:
    once = normalize(op, *given_texts)
    assert normalize(op, *once) == once


SPACES = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)).startswith("Z")]
letters = st.characters(exclude_categories=["Cs"])  # halves of letters are no text
odd_letters = st.sampled_from(
    [*map(chr, range(0xC0)), *SPACES, *"  ab", "\u0301", "\u0130", "\u1fef"]
)


@given(normalizers, st.lists(st.text(odd_letters | letters, max_size=8)))
def test_a_text_becomes_the_same_whatever_stands_beside_it(
    op: NormalizeTexts, given_texts: list[str]
) -> None:
    column = pa.array(["\t", *given_texts, "\0", "\u3000 "], pa.string())
    together = op(column).to_pylist()[1:-2]
    assert normalize(op, *given_texts) == together
    assert op(column.slice(1, len(given_texts))).to_pylist() == together
    assert [text for one in given_texts for text in normalize(op, one)] == together


@given(normalizers, texts)
def test_normal_texts_are_composed_and_hold_single_spaces_only(
    op: NormalizeTexts, given_texts: list[str]
) -> None:
    for text in normalize(op, *given_texts):
        assert unicodedata.is_normalized("NFC", text)
        assert text.split(" ") == (text.split() or [""])
        assert not any(unicodedata.category(letter) == "Cc" for letter in text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("  two\t\n words ", "two words", id="spaces"),
        pytest.param("no\u00a0break\u3000wide", "no break wide", id="spaces of other kinds"),
        pytest.param("e\u0301", "\u00e9", id="composed"),
        pytest.param("a\x00b\x07", "ab", id="control characters"),
        pytest.param("a \x00 b", "a b", id="a control character between spaces"),
        pytest.param(" \r\n", "", id="nothing left"),
        pytest.param("Don't -- STOP!", "Don't -- STOP!", id="letters and punctuation stay"),
        pytest.param("\U0001f468\u200d\U0001f466", "\U0001f468\u200d\U0001f466", id="joined"),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(NormalizeTexts(), text) == [expected]


@given(st.lists(st.text(st.sampled_from([*"\t\n\v\f\r\x85", *SPACES, *"  ab"]), max_size=12)))
def test_any_run_of_white_space_becomes_one_space(given_texts: list[str]) -> None:
    expected = [" ".join(text.split()) for text in given_texts]
    assert normalize(NormalizeTexts(), *given_texts) == expected


def test_lower_case_reaches_beyond_ascii() -> None:
    assert normalize(NormalizeTexts(is_lowercase=True), "ÄRGER Д") == ["ärger д"]


def test_without_punctuation_words_remain() -> None:
    op = NormalizeTexts(has_punctuation=False)
    assert normalize(op, "Don't — “stop” (now)!", string.punctuation) == ["Dont stop now", ""]


@given(
    st.lists(
        st.text(st.sampled_from("aÄ \t\n\x0b\x1c\x1f\x85\xa0\u1680\u200b\u2028\u3000"), max_size=6)
    )
)
def test_stripped_texts_are_those_that_python_strips(given_texts: list[str]) -> None:
    expected = [text.strip() for text in given_texts]
    assert StripTexts()(pa.array(given_texts, pa.string())).to_pylist() == expected
    lower = StripTexts(is_lowercase=True)(pa.array(given_texts, pa.string()))
    assert lower.to_pylist() == [text.lower() for text in expected]
