"""Ops can be called by hand: lists become columns, and what is no column is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from taskloom.graph.errors import OpError
from taskloom.graph.op import Rows
from taskloom.ops.host.bpe import Bpe, EncodeTexts, FitBpe
from taskloom.ops.host.catalogue import HOST_CATALOGUE
from taskloom.ops.host.examples import EXAMPLES
from taskloom.ops.host.filter import CompareValues
from taskloom.ops.host.image import ResizeImages
from taskloom.ops.host.noise import ReplaceIds
from taskloom.ops.host.split import MaskSplits
from taskloom.ops.host.text import NormalizeTexts

CALLED = {
    name
    for name, op in HOST_CATALOGUE.items()
    if op.traits.rows is Rows.SAME
    and not op.traits.is_online
    and name[:5] not in ("load_", "make_")
}
TEXTS = [" A  cat ", "two dogs"]


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(TEXTS, id="list"),
        pytest.param(tuple(TEXTS), id="tuple"),
        pytest.param(np.array(TEXTS), id="NumPy array"),
        pytest.param(pa.array(TEXTS), id="Arrow array"),
        pytest.param(pa.array(TEXTS, pa.large_string()), id="large Arrow array"),
        pytest.param(pa.chunked_array([TEXTS[:1], TEXTS[1:]]), id="chunked array"),
    ],
)
def test_whatever_holds_texts_is_a_column(texts: Any) -> None:
    assert NormalizeTexts()(texts).to_pylist() == ["A cat", "two dogs"]
    assert NormalizeTexts()(texts=texts).to_pylist() == ["A cat", "two dogs"]


@pytest.mark.parametrize(
    ("texts", "got"),
    [
        pytest.param([1, 2], "a list that is no column of string", id="numbers"),
        pytest.param("a cat", "a str that is no column", id="text"),
        pytest.param(None, "a NoneType that is no column", id="nothing"),
        pytest.param(pa.array([1, 2]), "a column of int64", id="column of numbers"),
        pytest.param(pa.scalar("a cat"), "a StringScalar that is no column", id="scalar"),
        pytest.param([["a cat"]], "a list that is no column of string", id="lists"),
    ],
)
def test_what_is_no_column_of_the_type_is_refused(texts: Any, got: str) -> None:
    with pytest.raises(OpError) as caught:
        NormalizeTexts()(texts)
    (problem,) = caught.value.problems
    assert problem.code == "T0314"
    assert problem.message == f'normalize_texts cannot read "texts": {got}'
    assert problem.help.splitlines() == [
        "text<string[] scalar> is wanted; such as pa.array([...], pa.string())",
        "taskloom ops show normalize_texts",
    ]


def test_lists_get_the_type_of_their_port() -> None:
    split = MaskSplits()([0, 1], keep=[True, False])
    assert (split.type, split.to_pylist()) == (pa.uint8(), [0, 255])
    keys = np.zeros(1, np.uint64)
    assert ReplaceIds(ratio=0, num_ids=5)([[1, 2]], keys=keys).type == pa.list_(pa.uint16())


def test_ports_of_any_type_take_any() -> None:
    compare = CompareValues(operator=">", value=2)
    assert compare([1, 3]).to_pylist() == [False, True]
    with pytest.raises(OpError, match="T0308"):
        compare(["a"])
    with pytest.raises(OpError, match=r"T0314.*a list that is no column"):
        compare([1, "a"])


def test_constants_pass_as_they_are() -> None:
    bpe = Bpe(FitBpe(size=300).finish(FitBpe(size=300).observe(pa.array(TEXTS), pa.array([0, 0]))))
    assert EncodeTexts()(["a"], bpe).to_pylist() == EncodeTexts()(pa.array(["a"]), bpe).to_pylist()


def test_pixels_that_are_none_are_refused() -> None:
    with pytest.raises(OpError, match=r"T0314.*images"):
        ResizeImages(height=2, width=2)([b"bytes of a file"])


def test_every_op_that_is_called_on_columns_checks_them() -> None:
    mapped = [one for one in EXAMPLES if one.name in CALLED]
    assert {one.name for one in mapped} == CALLED
    for example in mapped:
        wrong = dict.fromkeys(example.rows, 7)
        keys = {"keys": example.keys} if example.op.traits.is_random else {}
        with pytest.raises(OpError, match="T0314"):
            example.op(**wrong, **example.constants, **keys)
