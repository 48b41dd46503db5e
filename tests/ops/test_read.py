"""Columns are read as they were planned, or refused by name."""

from __future__ import annotations

import pyarrow as pa
import pytest

from taskloom.graph.errors import OpError
from taskloom.ops.host.read import SPLIT_COLUMN, ReadColumns, ReadSplits

BATCH = pa.RecordBatch.from_pydict(
    {"label": ["cat", None], "count": pa.array([3, 4], pa.int32()), SPLIT_COLUMN: [0, 2]}
)


def test_missing_values_stay_missing() -> None:
    assert ReadColumns(column="label", dtype="string")(BATCH).to_pylist() == ["cat", None]


def test_a_planned_type_is_what_comes_out() -> None:
    assert ReadColumns(column="count", dtype="int64")(BATCH).type == pa.int64()
    assert ReadColumns(column="count")(BATCH).type == pa.int32()


def test_texts_of_any_encoding_become_plain_texts() -> None:
    labels = pa.array(["cat", "cat"])
    for dtype in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        batch = pa.RecordBatch.from_arrays([labels.cast(dtype)], ["label"])
        assert ReadColumns(column="label", dtype="string")(batch).equals(labels)


def test_an_unknown_column_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(OpError, match=r'(?s)no column "lable".*did you mean label\?'):
        ReadColumns(column="lable")(BATCH)


@pytest.mark.parametrize("dtype", ["int64", "list<item: int64>"])
def test_a_column_that_changed_its_type_is_refused(dtype: str) -> None:
    with pytest.raises(OpError, match=rf'(?s)"label" changed its type.*{dtype}.*got: +string'):
        ReadColumns(column="label", dtype=dtype)(BATCH)


def test_splits_are_small_integers_whatever_the_source_held() -> None:
    splits = ReadSplits()(BATCH)
    assert splits.type == pa.uint8()
    assert splits.to_pylist() == [0, 2]
