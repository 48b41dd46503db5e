"""A store: a folder of sources, columns, artifacts and records, and where each of them lies.

    store.json                                   format version
    sources/<source>/source.json                 schema, partitions in order, identities
    columns/<source>/<key>/<partition>.*         one partition of one column, and its receipt
    ledger/<source>/<key>/<partition>.arrow      rows that could not be computed
    artifacts/<name>.json, <digest>.bin          fitted things, pinned under a name
    tasks/<name>.json, builds/<id>.json          records for people and for training
    measures/<id>.json                           what the nodes of a build cost, for people

`Store` knows places and small records; the modules beside it know the formats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from ..graph.errors import StoreError, suggest
from .files import (
    digest_bytes,
    encode_json,
    local_path,
    read_json,
    reporting,
    sweep,
    write_atomic,
    write_json,
)
from .receipt import LEDGER
from .record import SourceRecord

FORMAT: Final = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A fitted thing, as a name of the store points at it.

    Attributes:
        kind: What it is, such as ``"bpe"``.
        digest: Digest of its content.
        made_by: What it was fitted with and on, as plain data.
    """

    kind: str
    digest: str
    made_by: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Store:
    """A folder with a ``store.json`` of a format that this code can read.

    Get one from `create` or `open`. It holds nothing but its path, so it goes to other processes.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Make a store at ``path``, or open the one that is there.

        Raises:
            StoreError: ``path`` is a URL (T0501), holds something else (T0503), cannot be written, or holds
                a store of a newer format (T0502).
        """
        folder = local_path(path)
        with reporting(folder):
            is_made = (folder / "store.json").exists()
        if is_made:
            return cls.open(folder)
        with reporting(folder):
            if folder.exists() and (not folder.is_dir() or _visible(folder)):
                message = f"{folder} holds other files, and no store.json"
                help_ = "give the path of a store, or of a folder that is empty or absent"
                raise StoreError.of("T0503", message, help_)
        write_json(folder / "store.json", {"format": FORMAT})
        return cls(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the store at ``path``.

        Raises:
            StoreError: There is none (T0503), its format is newer (T0502) or ``path`` is a URL (T0501).
        """
        folder = local_path(path)
        try:
            version = read_json(folder / "store.json")["format"]
        except (FileNotFoundError, NotADirectoryError):
            message = f"there is no store at {folder}"
            if folder.exists():
                message = f"{folder} is not a store: it has no store.json"
            help_ = "give the path that was built into; a build makes the store"
            raise StoreError.of("T0503", message, help_) from None
        except (KeyError, TypeError):
            version = None
        if not isinstance(version, int):
            raise StoreError.of("T0504", f"{folder / 'store.json'} is damaged: it names no format")
        if version > FORMAT:
            message = f"{folder} has format {version}, and this taskloom reads up to {FORMAT}"
            help_ = "use the version of taskloom that made it, or a newer one"
            raise StoreError.of("T0502", message, help_)
        return cls(folder)

    def sweep(self) -> int:
        """Remove what killed writers left behind; return how many files and folders."""
        return sweep(self.path)

    # Sources and columns.

    def sources(self) -> tuple[str, ...]:
        """Return the names of the sources, sorted."""
        return _stems(self.path / "sources", "*/source.json", lambda path: path.parent.name)

    def source(self, name: str) -> SourceRecord:
        """Return the record of source ``name``.

        Raises:
            StoreError: There is none (T0507), or it is damaged (T0504).
        """
        try:
            return SourceRecord.read(self.source_dir(name) / "source.json")
        except FileNotFoundError:
            raise self._unknown("source", name, self.sources()) from None

    def source_dir(self, name: str) -> Path:
        """Return the folder of source ``name``."""
        return self.path / "sources" / check_name("source", name)

    def keys(self, source: str) -> tuple[str, ...]:
        """Return the ids of the columns of ``source`` that have any file, sorted."""
        return _stems(self.path / "columns" / source, "*/", lambda path: path.name)

    def column_dir(self, source: str, key: str) -> Path:
        """Return the folder of column ``key``."""
        return self.path / "columns" / check_name("source", source) / check_name("column", key)

    def file_path(self, source: str, key: str, partition: str, name: str) -> Path:
        """Return where the file ``name`` of a partition lies, as receipts name files."""
        if name == LEDGER:
            return self.path / "ledger" / source / key / f"{partition}.arrow"
        return self.column_dir(source, key) / f"{partition}.{name}"

    def committed(self, source: str, key: str) -> frozenset[str]:
        """Return the ids of the partitions of column ``key`` that exist."""
        directory = self.column_dir(source, key)
        return frozenset(_stems(directory, "*.receipt", lambda path: path.stem))

    def missing(self, source: str, key: str, partitions: Iterable[str]) -> tuple[str, ...]:
        """Return those of ``partitions`` that column ``key`` lacks, in order."""
        committed = self.committed(source, key)
        return tuple(partition for partition in partitions if partition not in committed)

    # Artifacts.

    def pin(
        self, name: str, kind: str, content: bytes, made_by: Mapping[str, Any] | None = None
    ) -> Artifact:
        """Keep ``content`` and let ``name`` point at it."""
        artifact = Artifact(kind=kind, digest=digest_bytes(content), made_by=made_by or {})
        path = self._artifact_path(artifact.digest)
        if not path.exists():
            write_atomic(path, content)
        record = {"kind": kind, "digest": artifact.digest, "made_by": artifact.made_by}
        self._write_record(f"artifacts/{check_name('artifact', name)}.json", record)
        return artifact

    def artifacts(self) -> dict[str, Artifact]:
        """Return the pinned artifacts by name."""
        names = _stems(self.path / "artifacts", "*.json", lambda path: path.stem)
        paths = {name: self.path / "artifacts" / f"{name}.json" for name in names}
        return {name: Artifact(**read_json(path)) for name, path in paths.items()}

    def artifact_content(self, digest: str) -> bytes:
        """Return the content of the artifact with ``digest``.

        Raises:
            StoreError: It is not in the store (T0507), or its file is damaged (T0504).
        """
        path = self._artifact_path(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            known = [artifact.digest for artifact in self.artifacts().values()]
            raise self._unknown("artifact", digest, known) from None
        if digest_bytes(content) != digest:
            message = f"{path} is damaged: its content does not match its name"
            raise StoreError.of("T0504", message, "restore it from a copy, or fit it again")
        return content

    # Records.

    def write_task(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep what task ``name`` was built as."""
        self._write_record(f"tasks/{check_name('task', name)}.json", record)

    def tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks, sorted."""
        return _stems(self.path / "tasks", "*.json", lambda path: path.stem)

    def task(self, name: str) -> dict[str, Any]:
        """Return what task ``name`` was built as.

        Raises:
            StoreError: It was never built into this store (T0507).
        """
        try:
            return read_json(self.path / "tasks" / f"{check_name('task', name)}.json")
        except FileNotFoundError:
            raise self._unknown("task", name, self.tasks()) from None

    def write_build(self, identity: str, record: Mapping[str, Any]) -> None:
        """Keep who built what, when and how long: all that varies between equal builds."""
        self._write_record(f"builds/{check_name('build', identity)}.json", record)

    def write_measures(self, build: str, record: Mapping[str, Any]) -> None:
        """Keep what the nodes of ``build`` cost."""
        self._write_record(f"measures/{check_name('build', build)}.json", record)

    def measures(self) -> Iterator[Any]:
        """Yield what the nodes of builds cost, the latest build first; damaged files are passed over."""
        for name in reversed(_stems(self.path / "measures", "*.json", lambda path: path.name)):
            with suppress(StoreError, FileNotFoundError):
                yield read_json(self.path / "measures" / name)

    def _write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a small record, unless it is there as it is."""
        path, content = self.path / name, encode_json(record)
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content)

    def _artifact_path(self, digest: str) -> Path:
        return self.path / "artifacts" / f"{check_name('artifact', digest)}.bin"

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> StoreError:
        message = f'{self.path} does not hold {what} "{name}"'
        return StoreError.of("T0507", message, f"{suggest(name, tuple(known))}\na build adds it")


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it can be the name of a file.

    Raises:
        StoreError: It holds other characters than letters, digits, ``_``, ``-`` and ``.``.
    """
    if not _NAME.fullmatch(name):
        message = f'{what} name "{name}" cannot be the name of a file'
        help_ = 'use letters, digits, "_", "-" and ".", and begin with a letter or digit'
        raise StoreError.of("T0509", message, help_)
    return name


def _visible(folder: Path) -> bool:
    return any(not path.name.startswith(".") for path in folder.iterdir())


def _stems(folder: Path, pattern: str, name: Any) -> tuple[str, ...]:
    found = folder.glob(pattern) if folder.is_dir() else ()
    return tuple(sorted(name(path) for path in found if not path.name.startswith(".")))
