"""The rows of a task as Arrow tables for others to read: what is stored of them, or what they were made of.

Texts are decoded and their ids stand beside them, pictures are PNG or ``.npy`` files, whatever else is dense
is ``.npy`` files, and the values of a group are lists.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from ...graph.node import Node, Value
from ...graph.type import Layout, Type, source_of
from ...ops.host.bpe import Bpe
from ...ops.recipe.text import BLOCK
from ...storage.batches import cut_points
from ...storage.length import find_items, item_starts
from ...storage.reader import ColumnReader
from ...storage.record import SourceRecord
from ...storage.source import read_batches
from ...storage.store import Store
from ...storage.values import array_bytes
from ..builder.dataset import Dataset

ImageForm: TypeAlias = Literal["png", "npy"]
Ints: TypeAlias = npt.NDArray[np.int64]

ROW: Final = "row"
"""Column of row ids: a partition, and an offset in it."""

SPLIT: Final = "split"

PICTURE: Final[Mapping[bytes | str, bytes | str]] = {b"holds": b"pictures"}
"""What the metadata of a field says that holds the content of picture files."""

_PIECE_ROWS: Final = 1024
_PIECE_BYTES: Final = 32 << 20


class ExportedRows(Protocol):
    """Rows of a task, known by their numbers in its source."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What decides the values, beside the rows of the source."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        ...

    def sizes(self, rows: Ints) -> Ints:
        """Return about how many bytes each of ``rows`` takes."""
        ...

    def tables(self, rows: Ints) -> Iterator[pa.Table]:
        """Yield ``rows``, which ascend, in tables of bounded size."""
        ...


@dataclass(frozen=True, slots=True)
class SlotColumn:
    """One stored value of a slot.

    Attributes:
        name: Name of the slot, numbered where the slot stands for several values.
        column: Where it is stored.
        type: Its type in the graph.
        starts: Where the items of each row begin, of a slot in a group.
    """

    name: str
    column: ColumnReader
    type: Type
    starts: Ints | None

    def sizes(self, rows: Ints) -> Ints:
        """Return about how many bytes each of ``rows`` takes."""
        if self.starts is None:
            return self._sizes(rows)
        items, owners = find_items(self.starts, rows)
        sizes = np.bincount(owners, weights=self._sizes(items), minlength=len(rows))
        return sizes.astype(np.int64)

    def read(self, rows: Ints, bpe: Bpe, images: ImageForm) -> Iterator[tuple[pa.Field, Any]]:
        """Yield the columns that show the slot."""
        items, owners = (rows, None) if self.starts is None else find_items(self.starts, rows)
        is_picture = self.type.kind == "image" and images == "png"
        for name, array in self._arrays(items, bpe, is_picture=is_picture):
            whole = array if owners is None else _as_lists(array, owners, len(rows))
            yield pa.field(name, whole.type, metadata=PICTURE if is_picture else None), whole

    def _sizes(self, rows: Ints) -> Ints:
        each = self.type.row_bytes
        return np.full(len(rows), each) if each else 8 * self.column.lengths[rows].astype(np.int64)

    def _arrays(
        self, rows: Ints, bpe: Bpe, *, is_picture: bool
    ) -> Iterator[tuple[str, pa.Array | pa.ChunkedArray]]:
        if self.type.layout is Layout.DENSE:
            values = np.asarray(self.column.gather(rows))
            valid = self.column.valid[rows]
            made = array_bytes(values, valid)
            if is_picture:
                made = pa.array(
                    [_png(v) if ok else None for v, ok in zip(values, valid, strict=True)]
                )
            yield self.name, made.cast(pa.binary())
            return
        taken = self.column.take(rows)
        if self.type.kind == BLOCK:
            texts = [None if ids is None else bpe.decode(ids) for ids in taken.to_pylist()]
            yield self.name, pa.array(texts, pa.string())
            yield f"{self.name}_ids", taken
        else:
            yield self.name, taken


@dataclass(frozen=True)
class StoredRows:
    """What is stored for the slots of a task.

    Attributes:
        dataset: The open columns.
        record: The source.
        task: The task.
        bpe: The vocabulary of texts.
        images: How pictures are given.
    """

    dataset: Dataset
    record: SourceRecord
    task: str
    bpe: Bpe
    images: ImageForm

    @cached_property
    def slots(self) -> tuple[SlotColumn, ...]:
        """The slots, each value once, source before target."""
        found: dict[Value, SlotColumn] = {}
        for document in self.dataset.plan.documents(self.task):
            for name, value, starts in self._read_by(document):
                if value not in found:
                    name_ = _free(name, [slot.name for slot in found.values()])
                    column = self.dataset.columns[source_of(value.node.rows), value.column_id]
                    type_ = self.dataset.plan.graph.type_of(value)
                    found[value] = SlotColumn(name_, column, type_, starts)
        return tuple(found.values())

    @property
    def identity(self) -> Mapping[str, str]:
        """The stored columns, and the form of pictures."""
        stored = self.dataset.plan.stored_of(self.task)
        return {**{port: value.column_id for value, port in stored.items()}, "images": self.images}

    @cached_property
    def schema(self) -> pa.Schema:
        """Row id, then what shows each slot."""
        return self._table(np.zeros(0, np.int64)).schema

    def sizes(self, rows: Ints) -> Ints:
        """Return about how many bytes each of ``rows`` takes."""
        return sum((slot.sizes(rows) for slot in self.slots), np.full(len(rows), 32))

    def tables(self, rows: Ints) -> Iterator[pa.Table]:
        """Yield ``rows`` in tables of bounded size."""
        for piece in cut_rows(rows, self.sizes(rows), _PIECE_ROWS, _PIECE_BYTES):
            yield self._table(piece)

    def _table(self, rows: Ints) -> pa.Table:
        fields: list[pa.Field] = [pa.field(ROW, pa.string())]
        arrays: list[Any] = [row_ids(self.record, rows)]
        for slot in self.slots:
            for field, array in slot.read(rows, self.bpe, self.images):
                fields.append(field)
                arrays.append(array)
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _read_by(self, document: Node) -> Iterator[tuple[str, Value, Ints | None]]:
        """Yield the slots that ``document`` reads, their values, and where items of groups begin."""
        nodes = self.dataset.plan.graph.nodes
        for entry in _entries(document, "source", "target"):
            if "port" not in entry:
                continue
            value = document.inputs[entry["port"]]
            if "group" not in entry:
                yield from self._stored(entry, value, None)
                continue
            group = nodes[value.node]
            count = group.inputs["count"]
            column = self.dataset.columns[source_of(count.node.rows), count.column_id]
            for item in _entries(group, "items"):
                if "port" in item:
                    yield from self._stored(item, group.inputs[item["port"]], item_starts(column))

    def _stored(
        self, entry: Mapping[str, Any], value: Value, starts: Ints | None
    ) -> Iterator[tuple[str, Value, Ints | None]]:
        if "slot" in entry and value in self.dataset.plan.cut.stored:
            yield entry["slot"], value, starts


@dataclass(frozen=True)
class SourceRows:
    """The columns of the source of a task.

    Attributes:
        store: The store.
        record: The source.
    """

    store: Store
    record: SourceRecord

    @property
    def identity(self) -> Mapping[str, str]:
        """Nothing: the rows say it."""
        return {}

    @property
    def schema(self) -> pa.Schema:
        """Row id, then the columns of the source."""
        columns = [
            pa.field(name, self.record.schema.field(given).type) for given, name in self._names()
        ]
        return pa.schema([pa.field(ROW, pa.string()), *columns])

    def sizes(self, rows: Ints) -> Ints:
        """Return about how many bytes each of ``rows`` takes, as its file tells."""
        num_rows = np.zeros(len(self.record.files), np.int64)
        for part in self.record.partitions:
            num_rows[part.file] += part.rows
        sizes = np.array([file.bytes for file in self.record.files]) // np.maximum(num_rows, 1)
        files = np.array([part.file for part in self.record.partitions])
        return sizes[files[find_partitions(self.record, rows)[0]]].astype(np.int64)

    def tables(self, rows: Ints) -> Iterator[pa.Table]:
        """Yield ``rows`` as their partitions are read."""
        numbers, offsets = find_partitions(self.record, rows)
        for number in dict.fromkeys(numbers.tolist()):
            wanted = offsets[numbers == number]
            first = 0
            for batch in read_batches(self.store, self.record, self.record.partitions[number].id):
                here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
                if len(here):
                    ids = row_ids(self.record, rows[numbers == number][np.isin(wanted, here)])
                    table = pa.Table.from_batches([batch]).take(pa.array(here - first))
                    columns = {name: table.column(given) for given, name in self._names()}
                    yield pa.table({ROW: ids, **columns}, schema=self.schema)
                first += batch.num_rows

    def _names(self) -> list[tuple[str, str]]:
        """Return the columns of the source by the names that they have here."""
        given = self.record.schema.names
        return [(name, _free(name, [each for each in given if each != name])) for name in given]


def cut_rows(rows: Ints, sizes: Ints, max_rows: int, max_bytes: int) -> Iterator[Ints]:
    """Yield ``rows`` in pieces of at most ``max_rows`` that end when they reach ``max_bytes``."""
    begin = 0
    for end in [*cut_points(sizes, 0, 0, max_rows, max_bytes), len(rows)]:
        if end > begin:
            yield rows[begin:end]
        begin = end


def find_partitions(record: SourceRecord, rows: Ints) -> tuple[Ints, Ints]:
    """Return the number of the partition of each of ``rows``, and its offset there."""
    ends = np.cumsum([part.rows for part in record.partitions])
    numbers = np.searchsorted(ends, rows, side="right")
    return numbers, rows - np.concatenate([[0], ends])[numbers]


def row_ids(record: SourceRecord, rows: Ints) -> pa.Array:
    """Return the ids of ``rows``, such as ``"5c1f0a…:1499"``."""
    numbers, offsets = find_partitions(record, rows)
    ids = [part.id for part in record.partitions]
    pairs = zip(numbers.tolist(), offsets.tolist(), strict=True)
    return pa.array([f"{ids[number]}:{offset}" for number, offset in pairs], pa.string())


def _entries(node: Node, *params: str) -> Iterator[Mapping[str, Any]]:
    for param in params:
        entries: Any = node.params[param]
        yield from entries


def _free(name: str, known: Sequence[str]) -> str:
    """Return ``name``, with a number where it is taken."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return next(
        each for each in itertools.chain([name], numbered) if each not in {*known, ROW, SPLIT}
    )


def _as_lists(items: Any, owners: Ints, num_rows: int) -> pa.Array:
    counts = np.bincount(owners, minlength=num_rows)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    values = items.combine_chunks() if isinstance(items, pa.ChunkedArray) else items
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
