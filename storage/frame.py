"""Frames: what other libraries hold tables in, read as Arrow tables of some rows each.

No library is imported for it: whoever holds a frame has imported what it is made of. Whatever else offers its
rows as a stream by Arrow's PyCapsule interface is a frame as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from ..graph.errors import SourceError
from .batches import READ_ROWS, small_batches
from .huggingface import read_dataset
from .record import SPLIT_COLUMN
from .unify import cast_array, map_items, map_struct, plain_type
from .values import array_bytes, canonical_column

ACCEPTED: Final = (
    "paths, an iterable of dicts or of Arrow tables, a function that returns one, or a frame: "
    "of polars, pandas, pyarrow, dask.dataframe, Hugging Face datasets, or Sql(query, connection)"
)


class ArrowStream(Protocol):
    """A frame of any library that speaks Arrow's PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class LazyTable(Protocol):
    """A lazy frame of polars."""

    def collect_batches(self, *, chunk_size: int | None = None) -> Any:
        """Return frames of some rows each."""
        ...


class ArrowDataset(Protocol):
    """A dataset of pyarrow."""

    def to_batches(self) -> Any:
        """Return record batches."""
        ...


class PartitionedFrame(Protocol):
    """A frame of dask."""

    def to_delayed(self) -> Any:
        """Return its partitions."""
        ...


Frame: TypeAlias = "ArrowStream | LazyTable | ArrowDataset | PartitionedFrame"


class Kind(NamedTuple):
    """One kind of frame.

    Attributes:
        module: Where its class is imported from.
        name: Name of the class.
        read: From a frame, the name of the source and the most rows that will be taken to tables.
    """

    module: str
    name: str
    read: Callable[[Any, str, int | None], Iterator[Any]]


def is_frame(data: object) -> bool:
    """Return whether ``data`` holds, or gives, tables rather than rows."""
    return _find_kind(data) is not None or hasattr(data, "__arrow_c_stream__")


def read_frame(
    data: Any, name: str, *, first: int = 0, num_rows: int | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of a frame in tables of at most `READ_ROWS` rows, in types without forms of their own.

    Pictures and arrays are the canonical bytes that they are in rows.

    Args:
        data: The frame.
        name: What it is called in messages.
        first: Number of its first row in messages.
        num_rows: Most rows that will be taken: more need not be computed.

    Raises:
        SourceError: It gives values without names, or a name that cannot be used.
    """
    kind = _find_kind(data)
    tables = kind.read(data, name, num_rows) if kind else _read_stream(data, name, num_rows)
    for table in tables:
        check_names(table.schema.names, name)
        for batch in table.to_batches() if isinstance(table, pa.Table) else [table]:
            for small in small_batches(batch):
                yield _plain_table(small)
                first += small.num_rows


def check_names(names: Sequence[object], name: str) -> None:
    """Raise unless ``names`` are texts that differ, and none is reserved.

    Raises:
        SourceError: One cannot be the name of a column.
    """
    for column in names:
        if not isinstance(column, str) or column == SPLIT_COLUMN or names.count(column) > 1:
            message = f'"{name}" has a column called {column!r}'
            help_ = f'names of columns are text, each given once, and "{SPLIT_COLUMN}" is taken'
            raise SourceError.of("T0407", message, help_).at(column=str(column))


def _find_kind(data: object) -> Kind | None:
    for kind in KINDS:
        made_by = sys.modules.get(kind.module)
        class_ = getattr(made_by, kind.name, None)
        if isinstance(class_, type) and isinstance(data, class_):
            return kind
    return None


def _plain_table(batch: pa.RecordBatch) -> pa.Table:
    names = batch.schema.names
    if not names:
        return pa.table({"": pa.nulls(batch.num_rows)}).select([])
    return pa.table(dict(zip(names, map(_plain_array, batch.columns), strict=True)))


def _plain_array(array: Any) -> Any:
    """Return the values of ``array`` as rows would give them: fields of lists have other names elsewhere."""
    if isinstance(array, pa.FixedShapeTensorArray):
        return _tensor_bytes(array)
    if isinstance(array, pa.ExtensionArray):
        return _plain_array(array.storage)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return map_items(array, _plain_array)
    if pa.types.is_struct(array.type):
        return map_struct(array, lambda _, child: _plain_array(child))
    return cast_array(array, plain_type(array.type))


def _tensor_bytes(array: Any) -> pa.Array:
    valid = np.asarray(array.is_valid())
    return array_bytes(array.filter(array.is_valid()).to_numpy_ndarray(), valid)


def _read_stream(data: Any, name: str, num_rows: int | None) -> Iterator[Any]:
    del num_rows  # a stream is computed as it is read
    try:
        reader = pa.RecordBatchReader.from_stream(data)
    except pa.ArrowInvalid as error:
        message = f'source "{name}" is a {type(data).__name__}, which gives values without names'
        raise SourceError.of("T0402", message, f"give {ACCEPTED}") from error
    yield from reader


def _read_batch(data: Any, name: str, num_rows: int | None) -> Iterator[Any]:
    del name, num_rows  # it is there
    yield data


def _read_arrow_dataset(data: Any, name: str, num_rows: int | None) -> Iterator[Any]:
    del name, num_rows  # read ahead is short
    yield from data.to_batches(batch_size=READ_ROWS, batch_readahead=4, fragment_readahead=1)


def _read_polars(data: Any, name: str, num_rows: int | None) -> Iterator[pa.Table]:
    yield from _from_polars(data, name, 0)
    del num_rows  # they are there


def _read_polars_lazily(data: Any, name: str, num_rows: int | None) -> Iterator[pa.Table]:
    lazy = data if num_rows is None else data.head(num_rows)
    first = 0
    for frame in lazy.collect_batches(chunk_size=8 * READ_ROWS):
        yield from _from_polars(frame, name, first)
        first += frame.height


def _from_polars(frame: Any, name: str, first: int) -> Iterator[pa.Table]:
    polars: Any = sys.modules["polars"]
    for piece in frame.iter_slices(READ_ROWS):
        arrays = {
            # To Arrow, objects are the addresses where they lie.
            series.name: canonical_column(series.to_list(), series.name, name, first)
            if series.dtype == polars.Object
            else series.to_arrow(compat_level=polars.CompatLevel.oldest())
            for series in piece.iter_columns()
        }
        yield pa.table(arrays)
        first += piece.height


def _read_pandas(data: Any, name: str, num_rows: int | None) -> Iterator[pa.Table]:
    del num_rows  # they are there
    yield from _from_pandas(data, name, 0)


def _from_pandas(frame: Any, name: str, first: int) -> Iterator[pa.Table]:
    # An index with a name is a column; one without numbers the rows.
    if named := [each for each in frame.index.names if each is not None]:
        frame = frame.reset_index(level=named)
    check_names(list(frame.columns), name)
    for begin in range(0, len(frame), READ_ROWS):
        piece = frame.iloc[begin : begin + READ_ROWS]
        yield pa.table({c: _from_series(piece[c], c, name, first) for c in piece.columns})
        first += len(piece)


def _from_series(series: Any, column: str, name: str, first: int) -> Any:
    if series.dtype != object:
        return pa.array(series, from_pandas=True)
    missing = series.isna()
    values = [None if lacks else value for value, lacks in zip(series, missing, strict=True)]
    return canonical_column(values, column, name, first)


def _read_dask(data: Any, name: str, num_rows: int | None) -> Iterator[pa.Table]:
    del num_rows  # partitions are computed one after the other, as they are read
    first = 0
    for partition in data.to_delayed():
        frame = partition.compute()
        yield from _from_pandas(frame, name, first)
        first += len(frame)


KINDS: Final = (
    Kind("pyarrow", "RecordBatch", _read_batch),
    Kind("pyarrow", "Table", _read_batch),
    Kind("pyarrow.dataset", "Dataset", _read_arrow_dataset),
    Kind("polars", "DataFrame", _read_polars),
    Kind("polars", "LazyFrame", _read_polars_lazily),
    Kind("pandas", "DataFrame", _read_pandas),
    Kind("dask.dataframe", "DataFrame", _read_dask),
    Kind("datasets", "Dataset", read_dataset),
    Kind("datasets", "IterableDataset", read_dataset),
)
"""The kinds of frames. To add one, write how it is read and name it here."""
