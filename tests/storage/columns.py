"""Columns to write and read in tests: types, arrays of them, and a partition of each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from taskloom.graph.type import Layout, Type
from taskloom.storage.column import open_writer
from taskloom.storage.receipt import Receipt
from taskloom.storage.store import Store

IDS = Type("text", "uint16", ("T",), Layout.RAGGED)
BOXES = Type("box", "float32", ("N", 4), Layout.RAGGED)
TEXTS = Type("text", "string")
SPLITS = Type("split", "uint8")
KEEPS = Type("keep", "bool")
IMAGES = Type("image", "uint8", (3, 2, 3), Layout.DENSE)


def ids(rows: Sequence[Sequence[int] | None]) -> pa.Array:
    """Return ``rows`` as the values of a column of `IDS`."""
    return pa.array(rows, pa.list_(pa.uint16()))


def tensors(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None) -> Any:
    """Return ``values``, the rows first, as an Arrow array that is null where not ``valid``."""
    array = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
    if valid is None:
        return array
    rows = pa.array(np.arange(len(values)), mask=~valid)
    return pa.ExtensionArray.from_storage(array.type, array.storage.take(rows))


def write_column(
    store: Store, key: str, partition: str, type_: Type, *arrays: Any, source: str = "s"
) -> Receipt:
    """Commit ``arrays`` as one partition."""
    with open_writer(store, source, key, partition, type_) as writer:
        for array in arrays:
            writer.write(array)
        return writer.commit()


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below ``folder`` by its relative path, locks left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def memory_folder() -> AbstractContextManager[str]:
    """Make a temporary folder that needs no disk, where there is one: examples are many, and flushes slow."""
    shared = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)
