"""Types are spelled as text and come back, whatever a source's columns are made of."""

from __future__ import annotations

import pyarrow as pa
import pytest

from taskloom.graph.errors import TypeMismatchError
from taskloom.graph.type import Layout, Place, Type

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
