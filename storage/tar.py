"""WebDataset tars as rows: members whose names differ in their extension only are one sample.

``0007.jpg`` and ``0007.cls`` are the columns ``jpg`` and ``cls`` of the row whose ``__key__`` is ``0007``.
Bytes stay bytes, and what WebDataset takes for text or numbers is text. A tar is scanned by the headers of its
members, and cut between samples: partitions hold the byte they begin at.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ..graph.errors import Problem, SourceError
from .batches import READ_BYTES, READ_ROWS
from .record import Range
from .tabular import PARTITION_BYTES

KEY: Final = "__key__"

TEXTS: Final = frozenset(
    {
        *("class", "cls", "cls2", "count", "csv", "html", "id", "index", "inx", "json", "jsonl"),
        *("md", "text", "transcript", "tsv", "txt", "xml"),
    }
)
"""Last extensions of members that are text; whatever else there is stays bytes."""

# Names without a dot, and hidden files, belong to no sample.
_MEMBER: Final = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]+)")


@dataclass(slots=True)
class _Sample:
    """Members of one key, by column.

    Attributes:
        key: What their names begin with.
        offset: Where the first of them begins, in bytes.
        members: The members.
    """

    key: str
    offset: int
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict[str, tarfile.TarInfo])

    @property
    def bytes(self) -> int:
        """Bytes of all values."""
        return sum(member.size for member in self.members.values())


def scan_tar(path: Path, partition_rows: int) -> tuple[pa.Schema, list[Range]]:
    """Return the columns of ``path`` and the ranges of rows to partition it by."""
    columns: dict[str, None] = {KEY: None}
    ranges: list[Range] = []
    begin = first = number = size = 0
    with path.open("rb") as file:
        for sample in _samples(path, file, 0):
            if number - first == partition_rows or size >= PARTITION_BYTES:
                ranges.append(Range(first, number - first, begin))
                first, size = number, 0
            begin = sample.offset if first == number else begin
            columns |= dict.fromkeys(sample.members)
            number, size = number + 1, size + sample.bytes
    if number > first:
        ranges.append(Range(first, number - first, begin))
    return pa.schema([(name, _type_of(name)) for name in columns]), ranges


def read_tar(
    path: Path, rows: Range, columns: Sequence[str], types: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of ``columns`` over ``rows``."""
    del types  # extensions say them
    values: list[list[Any]] = []
    size, left = 0, rows.rows
    with path.open("rb") as file:
        for number, sample in enumerate(_samples(path, file, rows.offset), rows.start):
            values.append([_value(path, file, sample, name, number) for name in columns])
            size, left = size + sample.bytes, left - 1
            if not left or len(values) == READ_ROWS or size >= READ_BYTES:
                yield _batch(values, columns)
                values, size = [], 0
            if not left:
                return
    if values:
        yield _batch(values, columns)


def head_tar(path: Path, num_rows: int) -> pa.Table:
    """Return the first rows of ``path``."""
    columns: dict[str, None] = {KEY: None}
    rows = 0
    with path.open("rb") as file:
        for sample in _samples(path, file, 0) if num_rows > 0 else ():
            columns |= dict.fromkeys(sample.members)
            rows += 1
            if rows == num_rows:
                break
    batches = read_tar(path, Range(0, rows), list(columns), {}) if rows else iter(())
    return pa.Table.from_batches(batches, pa.schema([(c, _type_of(c)) for c in columns]))


def _samples(path: Path, file: Any, offset: int) -> Iterator[_Sample]:
    file.seek(offset)
    sample: _Sample | None = None
    try:
        # Closing the archive leaves the file open; the index that it keeps of its members would grow.
        archive: Any = tarfile.TarFile(fileobj=file)
        while (member := archive.next()) is not None:
            archive.members = []
            match = _MEMBER.fullmatch(member.name) if member.isreg() else None
            if match is None:
                continue
            if sample is None or sample.key != match["key"]:
                if sample is not None:
                    yield sample
                sample = _Sample(match["key"], member.offset)
            column = re.sub(r"\W", "_", match["extension"].lower(), flags=re.ASCII)
            if column in sample.members or column == KEY:
                raise _repeated(path, sample.key, column)
            sample.members[column] = member
        _check_end(file, archive.offset)
    except tarfile.TarError as error:
        message = f"cannot read {path}: {error}"
        raise SourceError.of("T0401", message, "is the file whole, and a tar?") from error
    if sample is not None:
        yield sample


def _check_end(file: Any, offset: int) -> None:
    # To the library anything that is no header is the end, and so is a file that was cut off between members.
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a member nor the end of the archive is at byte {offset}")


def _repeated(path: Path, key: str, column: str) -> SourceError:
    message = f'{path} has two members for column "{column}" of sample "{key}"'
    help_ = "members of one sample lie side by side, each with an extension of its own"
    return SourceError(Problem("T0408", message, help_, row=f"{path.name}:{key}", column=column))


def _type_of(column: str) -> pa.DataType:
    is_text = column == KEY or column.rpartition("_")[2] in TEXTS
    return pa.string() if is_text else pa.binary()


def _value(path: Path, file: Any, sample: _Sample, column: str, number: int) -> Any:
    if column == KEY:
        return sample.key
    if column not in sample.members:
        return None
    member = sample.members[column]
    file.seek(member.offset_data)
    content = file.read(member.size)
    if not pa.types.is_string(_type_of(column)):
        return content
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        message = f'sample "{sample.key}" of {path}: "{member.name}" is not UTF-8'
        row = f"{path.name}:{number}"
        help_ = "texts are UTF-8; give bytes an extension that says what they are"
        raise SourceError(Problem("T0408", message, help_, row=row, column=column)) from error


def _batch(values: Sequence[Sequence[Any]], columns: Sequence[str]) -> pa.RecordBatch:
    arrays = [pa.array([row[i] for row in values], _type_of(c)) for i, c in enumerate(columns)]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))
