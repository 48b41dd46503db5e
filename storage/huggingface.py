"""Datasets of Hugging Face as tables: pictures and sounds as the bytes of their files, classes by name.

Nothing is decoded, and the library is not imported: whoever holds a dataset has imported it.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .batches import READ_ROWS
from .unify import map_items, map_struct
from .values import array_bytes, to_table

_SPLITS: Final = {"validation": "valid", "val": "valid", "dev": "valid"}
"""What others call our splits."""

_FILES: Final = 64
"""Rows that are read at a time where files are read for them."""


def name_splits(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``data`` by our names of splits, if it is a dictionary of datasets."""
    library = sys.modules.get("datasets")
    kinds = [getattr(library, name, None) for name in ("DatasetDict", "IterableDatasetDict")]
    if not any(isinstance(kind, type) and isinstance(data, kind) for kind in kinds):
        return data
    return {_SPLITS.get(split, split): part for split, part in data.items()}


def read_dataset(data: Any, name: str, num_rows: int | None) -> Iterator[pa.Table]:
    """Yield the rows of a dataset in tables.

    One that computes its rows as they are asked for, by a function or from a generator of rows without
    features, is read by rows.
    """
    del num_rows  # what is not asked for is not computed
    is_computed = (getattr(data, "format", None) or {}).get("type") == "custom"
    if data.features is None or is_computed:
        rows, first = iter(data), 0
        while piece := list(islice(rows, READ_ROWS)):
            yield to_table(piece, name=name, first=first)
            first += len(piece)
        return
    has_files = any(hasattr(feature, "embed_storage") for feature in data.features.values())
    size = _FILES if has_files else READ_ROWS
    for table in data.with_format("arrow").iter(batch_size=size):
        columns = {
            column: _plain(data.features[column], table.column(column).combine_chunks())
            for column in table.column_names
        }
        yield pa.table(columns)


def _plain(feature: Any, array: Any) -> Any:
    """Return the values of ``array``, which ``feature`` tells the meaning of."""
    library: Any = sys.modules["datasets"]
    if hasattr(feature, "embed_storage"):
        return _file_bytes(feature, array)
    if isinstance(feature, library.ClassLabel):
        # No class at all is -1, or null.
        known = pc.if_else(pc.greater_equal(array, 0), array, pa.scalar(None, array.type))
        return pa.array(feature.names, pa.string()).take(known)
    if isinstance(array, pa.ExtensionArray):
        valid = np.asarray(array.is_valid())
        present: Any = array.filter(array.is_valid())
        return array_bytes([np.array(row, feature.dtype) for row in present.to_pylist()], valid)
    if isinstance(feature, dict):
        fields: dict[str, Any] = feature
        return map_struct(array, lambda name, child: _plain(fields[name], child))
    item = getattr(feature, "feature", None)
    return array if item is None else map_items(array, lambda items: _plain(item, items))


def _file_bytes(feature: Any, array: Any) -> Any:
    content = pc.struct_field(array, "bytes")
    paths = pc.struct_field(array, "path")
    if pc.any(pc.and_(pc.is_null(content), pc.is_valid(paths))).as_py():
        content = pc.struct_field(feature.embed_storage(array), "bytes")
    return content
