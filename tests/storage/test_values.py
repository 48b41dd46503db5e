"""Python values have one Arrow form, and what has none is refused by row and column."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from PIL import Image

from taskloom.graph.errors import SourceError
from taskloom.storage.unify import cast_array, plain_type, unify_types
from taskloom.storage.values import to_table

DTYPES = npst.boolean_dtypes() | npst.integer_dtypes(endianness="?") | npst.floating_dtypes()


def load(content: bytes) -> npt.NDArray[Any]:
    return np.load(io.BytesIO(content), allow_pickle=False)


@given(npst.arrays(DTYPES, npst.array_shapes(min_dims=1, min_side=0)))
def test_arrays_come_back_from_their_npy_bytes(array: npt.NDArray[Any]) -> None:
    content = to_table([{"a": array}])["a"][0].as_py()
    back = load(content)
    np.testing.assert_array_equal(back, array)
    assert back.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    for equal in (array.copy(order="F"), array.astype(array.dtype.newbyteorder("S"))):
        assert content == to_table([{"a": equal}])["a"][0].as_py()


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"), st.none() | st.integers(-5, 5) | st.floats(width=16)
        )
    )
)
@settings(max_examples=50)
def test_rows_may_lack_keys_and_numbers_unite_to_floats(rows: list[dict[str, Any]]) -> None:
    table = to_table(rows)
    assert table.num_rows == len(rows)
    assert table.column_names == list(dict.fromkeys(key for row in rows for key in row))
    for name in table.column_names:
        values = [row.get(name) for row in rows]
        np.testing.assert_array_equal(
            np.array(table[name].to_pylist(), float), np.array(values, float)
        )
        if any(isinstance(value, float) for value in values):
            assert table.schema.field(name).type == pa.float64()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int16(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),  # noqa: FBT003
        (np.str_("x"), "x"),
        (np.array(7), 7),
        (np.array(["a", "b"]), ["a", "b"]),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (Path("/a/b"), "/a/b"),
        ((1, 2), [1, 2]),
        ({"a": (np.int8(1),), "b": None}, {"a": [1], "b": None}),
        (date(2026, 1, 2), date(2026, 1, 2)),
        (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        (Decimal("1.50"), Decimal("1.50")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_stands_for_a_plain_value_becomes_it(value: object, expected: object) -> None:
    assert to_table([{"a": value}])["a"].to_pylist() == [expected]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("1", (4, 5)),
        ("L", (4, 5)),
        ("P", (4, 5, 3)),
        ("RGB", (4, 5, 3)),
        ("RGBA", (4, 5, 4)),
        ("LA", (4, 5, 4)),
        ("CMYK", (4, 5, 3)),
    ],
)
def test_images_become_arrays_of_bytes_without_palettes(mode: str, expected: Any) -> None:
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).convert(mode)
    array = load(to_table([{"a": image}])["a"][0].as_py())
    assert (array.shape, array.dtype) == (expected, np.uint8)
    plain = image.convert({2: "L"}.get(len(expected), "RGB" if expected[-1] == 3 else "RGBA"))
    np.testing.assert_array_equal(array, np.asarray(plain))


def test_an_image_stands_as_its_exif_says() -> None:
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    turned = load(to_table([{"a": image}])["a"][0].as_py())
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(
    ("rows", "place", "message"),
    [
        pytest.param(
            [{"a": 1}, {"a": None}, {"a": "x"}], "r:12", "holds string, and int64", id="text"
        ),
        pytest.param([{"a": True}, {"a": 1}], "r:11", "int", id="truth is no number"),
        pytest.param([{"a": {"b": 1}}, {"a": {"b": "x"}}], "r:11", "b: string", id="nested"),
        pytest.param([{"a": 1}, {"a": 1 << 70}], "r:11", "int '1180591620717411303424'", id="huge"),
        pytest.param([{"a": object()}], "r:10", "no Arrow type", id="object"),
        pytest.param([{"a": {1, 2}}], "r:10", "no Arrow type", id="set"),
        pytest.param([{"a": np.array([object()])}], "r:10", "arrays of object", id="object array"),
        pytest.param([{"a": "\ud800"}], "r:10", "surrogates", id="lone surrogate"),
        pytest.param([{"a": 1}, "text"], "r:11", "is a str, not a mapping", id="no mapping"),
        pytest.param([{1: 1}], "r:10", "a column called 1", id="number as name"),
        pytest.param([{"__split__": 1}], "r:10", "is taken", id="reserved name"),
    ],
)
def test_a_bad_row_is_named(rows: Any, place: str, message: str) -> None:
    with pytest.raises(SourceError, match=f"(?s){message}") as caught:
        to_table(rows, name="r", first=10)
    (problem,) = caught.value.problems
    assert problem.row == place
    assert problem.code in ("T0405", "T0407", "T0408")
    assert problem.column == "a" or problem.code != "T0405"


INT, FLOAT, TEXT = pa.int64(), pa.float64(), pa.string()


@pytest.mark.parametrize(
    ("one", "other", "united"),
    [
        (pa.null(), INT, INT),
        (INT, FLOAT, FLOAT),
        (pa.int32(), pa.int64(), INT),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.list_(INT), pa.list_(pa.null()), pa.list_(INT)),
        (
            pa.struct([("a", INT)]),
            pa.struct([("b", TEXT), ("a", FLOAT)]),
            pa.struct([("a", FLOAT), ("b", TEXT)]),
        ),
        (
            pa.list_(pa.struct([("a", INT)])),
            pa.list_(pa.struct([])),
            pa.list_(pa.struct([("a", INT)])),
        ),
        (INT, TEXT, None),
        (pa.bool_(), INT, None),
        (TEXT, pa.binary(), None),
        (pa.list_(INT), INT, None),
    ],
    ids=str,
)
def test_types_unite_or_do_not(
    one: pa.DataType, other: pa.DataType, united: pa.DataType | None
) -> None:
    assert unify_types(one, other) == united
    for type_ in (one, other):
        if united is not None:
            assert cast_array(pa.nulls(2, type_), united).equals(pa.nulls(2, united))


def test_casting_reaches_into_lists_and_structs() -> None:
    given_ = pa.array([[{"a": 1}, None], None, [], [{"a": 2}]]).slice(0, 4)
    type_ = pa.list_(pa.struct([("a", FLOAT), ("b", TEXT)]))
    expected = [[{"a": 1.0, "b": None}, None], None, [], [{"a": 2.0, "b": None}]]
    for array, rows in ((given_, expected), (given_.slice(1, 3), expected[1:])):
        cast = cast_array(array, type_)
        assert (cast.type, cast.to_pylist()) == (type_, rows)
        cast.validate(full=True)


def test_forms_that_matter_to_files_only_are_plain() -> None:
    given_ = pa.list_(pa.dictionary(pa.int8(), pa.large_string()))
    assert plain_type(given_) == pa.list_(TEXT)
    array = pa.array(["a", "b", "a"], pa.dictionary(pa.int8(), TEXT))
    assert cast_array(array, plain_type(array.type)).to_pylist() == ["a", "b", "a"]
    for type_ in (pa.large_string(), pa.string_view(), pa.large_binary(), pa.binary_view()):
        array = pa.array([b"x", None], type_)
        assert cast_array(array, plain_type(type_)).to_pylist() == array.to_pylist()
