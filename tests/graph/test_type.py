"""Types are spelled as text and come back, whatever a source's columns are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from taskloom.graph.errors import TypeMismatchError
from taskloom.graph.type import (
    Layout,
    Place,
    Port,
    Type,
    expand_rows,
    mismatch,
    parent_rows,
    source_of,
    unify,
)

SPELLED = [
    pa.list_(pa.float64()),
    pa.list_(pa.int16(), 6),
    pa.dictionary(pa.int32(), pa.string()),
    pa.decimal128(10, 2),
    pa.timestamp("us", tz="+01:00"),
    pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]),
    pa.map_(pa.string(), pa.int64()),
]


@pytest.mark.parametrize("dtype", [str(one) for one in SPELLED])
def test_element_types_of_arrow_survive_the_way_through_text(dtype: str) -> None:
    for rows in ("", "pairs"):
        type_ = Type("any", dtype, ("T", 3), Layout.RAGGED, Place.HOST, rows)
        assert Type.parse(str(type_)) == type_


@pytest.mark.parametrize("text", ["", "image", "image<uint8[2] dense>", "a<b[c d] dense>@host"])
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(TypeMismatchError, match="is not a type"):
        Type.parse(text)


IMAGE = Port("image", "uint8", ("H", "W", 3), Layout.RAGGED)
FITTING = Type("image", "uint8", ("H", "W", 3), Layout.RAGGED, Place.HOST, "photos")

MISMATCHES = [
    pytest.param({"kind": "audio"}, "kind", id="modality"),
    pytest.param({"dtype": "float32"}, "dtype", id="dtype"),
    pytest.param({"shape": ("H", "W", 4)}, "dimension 3", id="fixed dimension"),
    pytest.param({"shape": ("H", "W")}, "number of dimensions", id="number of dimensions"),
    pytest.param({"layout": Layout.DENSE}, "layout", id="layout"),
    pytest.param({"place": Place.DEVICE}, "place", id="place"),
    pytest.param({"kind": "audio", "dtype": "int8"}, "kind, dtype", id="several"),
]


@pytest.mark.parametrize(("changes", "wrong"), MISMATCHES)
def test_each_mismatch_is_named_and_shown_as_expected_and_got(
    changes: dict[str, Any], wrong: str
) -> None:
    given = replace(FITTING, **changes)
    assert unify(IMAGE, given, Place.HOST, {}) == wrong
    error = mismatch('resize_images cannot read "images"', IMAGE, given, Place.HOST, wrong)
    assert f": {wrong} differ" in error.problems[0].message
    assert error.problems[0].help == (
        f"expected: image<uint8[H,W,3] ragged>@host\ngot:      {given}"
    )


def test_what_fits_fits() -> None:
    assert unify(IMAGE, FITTING, Place.HOST, {}) == ""


def test_a_named_dimension_stands_for_one_size_throughout_a_signature() -> None:
    sizes: dict[str, int | str] = {}
    square = Port("image", "uint8", ("S", "S"), Layout.DENSE)
    given = Type("image", "uint8", (8, 9), Layout.DENSE)
    assert unify(square, given, Place.HOST, sizes) == "dimension S"
    assert sizes == {"S": 8}


def test_packed_values_cross_to_the_device_and_nothing_comes_back() -> None:
    port = Port("ids", "int32", ("N",), Layout.PACKED)
    packed = Type("ids", "int32", ("N",), Layout.PACKED, Place.HOST, "pack")
    assert unify(port, packed, Place.DEVICE, {}) == ""
    back = replace(packed, place=Place.DEVICE)
    assert unify(port, back, Place.HOST, {}) == "place"
    ragged = replace(packed, layout=Layout.RAGGED)
    assert unify(replace(port, layout=Layout.ANY), ragged, Place.DEVICE, {}) == "place"


def test_row_sets_remember_what_they_were_made_of() -> None:
    items = expand_rows(expand_rows("photos", "a" * 32), "b" * 32)
    assert parent_rows(items) == expand_rows("photos", "a" * 32)
    assert source_of(items) == source_of("photos") == "photos"
    assert parent_rows("photos") == "photos"
