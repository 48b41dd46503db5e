"""What became of the sources of some tasks since they were built: files added, changed and left out.

Files are looked at, and those that were touched are read once; nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ...graph.errors import SourceError
from ...storage.record import SourceRecord
from ...storage.source import examine_source
from ...storage.store import Store
from ..task import Mixture

FileFate: TypeAlias = Literal["added", "changed", "read otherwise", "left out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file whose rows a source did not have when it was built, or has no more.

    Attributes:
        path: The file.
        fate: It was added or left out; its content changed; or its values have other types, or another split.
        rows: How many rows it has now.
        rows_before: How many it had.
        partitions: Ids of the partitions that it is now.
    """

    path: str
    fate: FileFate
    rows: int
    rows_before: int
    partitions: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = Path(self.path).name
        if self.fate == "changed" and self.rows != self.rows_before:
            return f"{name} changed: it had {self.rows_before:,} rows, it has {self.rows:,}"
        was = "changed" if self.fate == "changed" else f"was {self.fate}"
        if self.fate == "read otherwise":
            was = "is read in other types, or as another split"
        return f"{name} {was}"


@dataclass(frozen=True, slots=True)
class Seen:
    """Sources as they stand now.

    Attributes:
        records: What is known of each; none of one that nobody knows.
        files: What became of their files since they were built.
        remarks: What could not be looked at.
    """

    records: Mapping[str, SourceRecord]
    files: Mapping[str, tuple[FileChange, ...]] = field(
        default_factory=dict[str, tuple[FileChange, ...]]
    )
    remarks: tuple[str, ...] = ()


def seen_in(store: Store) -> Seen:
    """Return the sources as ``store`` knows them, without a look at their files."""
    return Seen({name: store.source(name) for name in store.sources()})


def look_at_sources(mixture: Mixture, store: Store) -> Seen:
    """Return the sources of ``mixture`` as their files stand now or, failing that, as they were built."""
    records: dict[str, SourceRecord] = {}
    files: dict[str, tuple[FileChange, ...]] = {}
    remarks: list[str] = []
    for name, source in mixture.sources().items():
        built = store.source(name) if name in store.sources() else None
        try:
            now = examine_source(store, name, source.data)
        except SourceError as error:
            now = None
            remarks.append(f"source {name} cannot be looked at: {error.problems[0].message}")
        else:
            if now is None:
                remarks.append(f"source {name} is given by a program: its rows are read by a build")
        if now is not None or built is not None:
            records[name] = now or built  # pyright: ignore[reportArgumentType] - one of them is there
        if now is not None and built is not None:
            files[name] = tuple(_file_changes(built, now))
    return Seen(records, files, tuple(remarks))


def _file_changes(built: SourceRecord, now: SourceRecord) -> Iterator[FileChange]:
    """Yield what became of the files of a source; a file that only moved is no change."""
    known = {partition.id for partition in built.partitions}
    rows_before = _rows_of(built)
    digests = {file.path: file.digest for file in built.files}
    for number, file in enumerate(now.files):
        ids = tuple(p.id for p in now.partitions if p.file == number)
        if not set(ids) - known:
            continue
        fate: FileFate = "read otherwise"
        if file.path not in digests:
            fate = "added"
        elif digests[file.path] != file.digest:
            fate = "changed"
        yield FileChange(
            path=file.path,
            fate=fate,
            rows=_rows_of(now)[file.path],
            rows_before=rows_before.get(file.path, 0),
            partitions=ids,
        )
    still = {file.path for file in now.files} | {file.digest for file in now.files}
    for file in built.files:
        if not {file.path, file.digest} & still:
            rows = rows_before[file.path]
            yield FileChange(path=file.path, fate="left out", rows=0, rows_before=rows)


def _rows_of(record: SourceRecord) -> Counter[str]:
    rows: Counter[str] = Counter()
    for partition in record.partitions:
        rows[record.files[partition.file].path] += partition.rows
    return rows
