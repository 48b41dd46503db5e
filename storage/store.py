"""A store: a folder or bucket of sources, columns, artifacts and records, and where each of them lies.

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
from .access import Access
from .files import decode_json, digest_bytes, encode_json, scheme_of
from .folder import Folder, LocalFolder
from .opening import FORMAT, MARK, check_format, is_free, open_folder
from .receipt import LEDGER
from .record import SourceRecord

SOURCE: Final = "source.json"
"""Name of the file that describes a source, in its folder."""

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

    Get one from `create` or `open`. It holds nothing but where it is and how URLs are opened, so it goes to
    other processes.

    Attributes:
        folder: Where its files lie.
        access: How URLs of its sources are opened, and the store's own.
    """

    folder: Folder
    access: Access = field(default_factory=Access)

    @classmethod
    def create(
        cls,
        location: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        cache_bytes: int | None = None,
    ) -> Self:
        """Make a store, or open the one that is there.

        Args:
            location: A path, or a URL such as ``s3://bucket/store``.
            storage_options: How its file system is opened, in the words of its library, and those of the
                sources: URLs of the same scheme, or of any where the store is a path.
            cache_bytes: Most bytes of files behind URLs to keep on this machine; 10 GB, or what
                ``TASKLOOM_CACHE_BYTES`` says, if not given.

        Raises:
            StoreError: The URL cannot be used (T0501) or reached (T0520), something else is there (T0503), it
                cannot be written, or holds a store of a newer format (T0502).
            MissingExtraError: The library for such URLs is not installed.
        """
        access = Access(storage_options or {}, cache_bytes)
        folder = open_folder(location, access)
        if folder.size(MARK) is None:
            # Somebody else may have made the store since: the mark is asked for again.
            if not is_free(folder) and folder.size(MARK) is None:
                message = f"{folder.spell()} holds other files, and no store.json"
                help_ = "give the path of a store, or of a folder that is empty or absent"
                raise StoreError.of("T0503", message, help_)
            folder.create(MARK, encode_json({"format": FORMAT}))
        check_format(folder)
        return cls(folder, access)

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        cache_bytes: int | None = None,
    ) -> Self:
        """Open a store that is there.

        Args:
            location: As for `create`.
            storage_options: As for `create`.
            cache_bytes: As for `create`.

        Raises:
            StoreError: There is none (T0503), its format is newer (T0502), or the URL cannot be used (T0501) or
                reached (T0520).
            MissingExtraError: The library for such URLs is not installed.
        """
        access = Access(storage_options or {}, cache_bytes)
        folder = open_folder(location, access)
        check_format(folder)
        return cls(folder, access)

    def __str__(self) -> str:
        """Return where it is."""
        return self.folder.spell()

    @property
    def path(self) -> Path:
        """The folder of a store on this machine.

        Raises:
            StoreError: It is behind a URL (T0501).
        """
        if isinstance(self.folder, LocalFolder):
            return self.folder.path
        raise StoreError.of("T0501", f"{self} is no folder of this machine")

    def access_to(self, url: str) -> Access:
        """Return how ``url`` of a source is opened."""
        scheme = scheme_of(str(self))
        is_meant = not scheme or scheme == scheme_of(url)
        return self.access if is_meant else Access({}, self.access.cache_bytes)

    def sweep(self) -> int:
        """Remove what killed writers left behind; return how many files and folders."""
        return self.folder.sweep()

    # Sources and columns.

    def sources(self) -> tuple[str, ...]:
        """Return the names of the sources, sorted."""
        names = sorted(self.folder.folders("sources"))
        return tuple(n for n in names if self.folder.size(f"sources/{n}/{SOURCE}") is not None)

    def source(self, name: str) -> SourceRecord:
        """Return the record of source ``name``.

        Raises:
            StoreError: There is none (T0507), or it is damaged (T0504).
        """
        file = f"{self.source_folder(name)}/{SOURCE}"
        try:
            return SourceRecord.decode(self.folder.read(file), self.folder.spell(file))
        except FileNotFoundError:
            raise self._unknown("source", name, self.sources()) from None

    def write_source(self, record: SourceRecord) -> None:
        """Keep what is known of a source."""
        self.folder.write(f"{self.source_folder(record.name)}/{SOURCE}", record.encode())

    def source_folder(self, name: str) -> str:
        """Return the folder of source ``name``, from the store's own."""
        return f"sources/{check_name('source', name)}"

    def columns(self) -> tuple[tuple[str, str], ...]:
        """Return the source and id of every column that has any file, sorted."""
        sources = sorted(self.folder.folders("columns"))
        return tuple((source, key) for source in sources for key in self.keys(source))

    def keys(self, source: str) -> tuple[str, ...]:
        """Return the ids of the columns of ``source`` that have any file, sorted."""
        return tuple(sorted(self.folder.folders(f"columns/{source}")))

    def column_folder(self, source: str, key: str) -> str:
        """Return the folder of column ``key``, from the store's own."""
        return f"columns/{check_name('source', source)}/{check_name('column', key)}"

    def file_name(self, source: str, key: str, partition: str, name: str) -> str:
        """Return where the file ``name`` of a partition, as receipts name it, lies in the store's folder."""
        if name == LEDGER:
            return f"ledger/{source}/{key}/{partition}.arrow"
        return f"{self.column_folder(source, key)}/{partition}.{name}"

    def committed(self, source: str, key: str) -> frozenset[str]:
        """Return the ids of the partitions of column ``key`` that exist."""
        names = self.folder.files(self.column_folder(source, key))
        return frozenset(n.removesuffix(".receipt") for n in names if n.endswith(".receipt"))

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
        self.folder.create(_artifact_file(artifact.digest), content)
        record = {"kind": kind, "digest": artifact.digest, "made_by": artifact.made_by}
        self._write_record(f"artifacts/{check_name('artifact', name)}.json", record)
        return artifact

    def artifacts(self) -> dict[str, Artifact]:
        """Return the pinned artifacts by name."""
        return {
            name: Artifact(**self._read_record(f"artifacts/{name}.json"))
            for name in self._stems("artifacts")
        }

    def artifact_content(self, digest: str) -> bytes:
        """Return the content of the artifact with ``digest``.

        Raises:
            StoreError: It is not in the store (T0507), or its file is damaged (T0504).
        """
        file = _artifact_file(digest)
        try:
            content = self.folder.read(file)
        except FileNotFoundError:
            known = [artifact.digest for artifact in self.artifacts().values()]
            raise self._unknown("artifact", digest, known) from None
        if digest_bytes(content) != digest:
            message = f"{self.folder.spell(file)} is damaged: its content does not match its name"
            raise StoreError.of("T0504", message, "restore it from a copy, or fit it again")
        return content

    # Records.

    def write_task(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep what task ``name`` was built as."""
        self._write_record(f"tasks/{check_name('task', name)}.json", record)

    def tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks, sorted."""
        return self._stems("tasks")

    def task(self, name: str) -> dict[str, Any]:
        """Return what task ``name`` was built as.

        Raises:
            StoreError: It was never built into this store (T0507).
        """
        try:
            return self._read_record(f"tasks/{check_name('task', name)}.json")
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
        for name in reversed(self._stems("measures")):
            with suppress(StoreError, FileNotFoundError):
                yield self._read_record(f"measures/{name}.json")

    def _stems(self, folder: str) -> tuple[str, ...]:
        names = self.folder.files(folder)
        return tuple(sorted(n.removesuffix(".json") for n in names if n.endswith(".json")))

    def _read_record(self, name: str) -> Any:
        return decode_json(self.folder.read(name), self.folder.spell(name))

    def _write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a small record, unless it is there as it is."""
        content = encode_json(record)
        with suppress(FileNotFoundError):
            if self.folder.read(name) == content:
                return
        self.folder.write(name, content)

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> StoreError:
        message = f'{self} does not hold {what} "{name}"'
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


def _artifact_file(digest: str) -> str:
    return f"artifacts/{check_name('artifact', digest)}.bin"
