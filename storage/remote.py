"""Remote folders: objects behind a URL, through fsspec.

An object is put whole, so there is nothing to rename. A partition's files are written on this machine, put
under their final names, and made to exist by a receipt that is put *if it is absent*: of two builds, one is
the first. Whoever is killed in between leaves objects that no receipt tells of, and the next build puts the
same ones again.

Reading maps copies in the `Cache`, each compared with the checksum in its receipt when it came. Records are
small and are read anew each time.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..graph.errors import StoreError, TaskloomError
from .access import Access
from .cache import Cache
from .files import is_full, reporting, scheme_of

MEMORY: Final = "memory"

_TRIED: Final = ".tried"
"""Object that is put and removed to see that others could be; no listing tells of it."""

# Files of memory:// are shared objects with one position each.
_MEMORY_LOCK = threading.RLock()


class Facts(NamedTuple):
    """What a file system tells of an object.

    Attributes:
        num_bytes: Its size.
        mtime_ns: When it was last written; 0 if that is not told.
        etag: What changes whenever the object does; empty if that is not told.
    """

    num_bytes: int
    mtime_ns: int
    etag: str


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """All objects whose URL begins with ``url`` and a slash."""

    url: str
    access: Access

    @property
    def is_near(self) -> bool:
        """Every look at a file goes over the network."""
        return False

    @property
    def is_shared(self) -> bool:
        """All but memory is seen by other processes."""
        return scheme_of(self.url) != MEMORY

    def spell(self, name: str = "") -> str:
        """Return the URL of an object."""
        return f"{self.url}/{name}" if name else self.url

    def read(self, name: str) -> bytes:
        """Return the content of an object."""
        with self._reaching(name) as (files, path):
            return files.cat_file(path)

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Read many objects at a time, where the file system can."""
        wanted = list(names)
        if not wanted:
            return {}
        with self._reaching("") as (files, root):
            paths = {f"{root}/{name}": name for name in wanted}
            found = files.cat(list(paths), on_error="return")
            for path, content in found.items():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise self.access.explain(content, self.spell(paths[path]))
        return {paths[p]: content for p, content in found.items() if isinstance(content, bytes)}

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Put an object, in place of what was there."""
        with self._writing(name) as (files, path):
            files.pipe_file(path, bytes(content))

    def create(self, name: str, content: bytes | memoryview) -> bool:
        """Put an object with the condition that there is none of its name."""
        try:
            with self._writing(name) as (files, path):
                files.pipe_file(path, bytes(content), mode="create")
        except FileExistsError:
            return False
        except StoreError:
            # Two at once may be told of a conflict in other words.
            if self.size(name) is None:
                raise
            return False
        return True

    def try_writing(self) -> None:
        """Put an empty object and remove it: two requests, which leave what is there as it is.

        Raises:
            StoreError: Objects cannot be put, or cannot be removed.
        """
        with self._writing(_TRIED) as (files, path):
            files.pipe_file(path, b"")
            # Another machine may have tried as well.
            with suppress(FileNotFoundError):
                files.rm_file(path)

    def size(self, name: str) -> int | None:
        """Return the size of an object."""
        facts = self.facts(name)
        return None if facts is None else facts.num_bytes

    def written_ns(self, name: str) -> int:
        """Return when an object was last put."""
        facts = self.facts(name)
        return 0 if facts is None else facts.mtime_ns

    def facts(self, name: str) -> Facts | None:
        """Return what the file system tells of an object, or None where there is none."""
        try:
            with self._reaching(name) as (files, path):
                info = files.info(path)
        except FileNotFoundError:
            return None
        if info["type"] != "file":
            return None
        written = info.get("LastModified") or info.get("mtime") or info.get("last_modified")
        seconds = written.timestamp() if hasattr(written, "timestamp") else written or 0
        etag = str(info.get("ETag") or info.get("etag") or info.get("created") or "")
        return Facts(info["size"], int(float(seconds) * 1e9), etag.strip('"'))

    def sizes(self, folder: str, names: Iterable[str]) -> Mapping[str, int]:
        """List all of ``folder`` once."""
        wanted = set(names)
        return {name: size for name, size in self._walk(folder) if name in wanted}

    def total(self, folder: str) -> int:
        """Add up the sizes of the objects below ``folder``."""
        return sum(size for _, size in self._walk(folder))

    def files(self, folder: str) -> list[str]:
        """List the objects right in ``folder``."""
        return [name for name, kind in self._list(folder) if kind == "file"]

    def folders(self, folder: str) -> list[str]:
        """List the folders right in ``folder``."""
        return [name for name, kind in self._list(folder) if kind == "directory"]

    def glob(self, pattern: str) -> list[str]:
        """Return the names of the objects that match ``pattern``, sorted."""
        with self._reaching(pattern) as (files, path):
            found = files.glob(path, detail=True)
        start = len(path) - len(pattern)
        return sorted(name[start:] for name, info in found.items() if info["type"] == "file")

    def remove(self, name: str) -> None:
        """Remove an object, or all below a folder."""
        with suppress(FileNotFoundError), self._reaching(name) as (files, path):
            files.rm(path, recursive=True)

    @contextmanager
    def copied(self, name: str) -> Generator[Path]:
        """Give a copy that is removed afterwards."""
        path = self._cache.scratch(Path(name).name)
        try:
            self.download(name, path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def borrowed(self, name: str, digest: str, num_bytes: int) -> Generator[Path]:
        """Give a file of the cache, whose content was compared."""
        suffix = Path(name).suffix
        fetch = self._cache.borrow(digest, num_bytes, lambda to: self.download(name, to), suffix)
        with fetch as path:
            yield path

    def adopted(self, name: str) -> str:
        """Fetch an object into the cache, and return the digest of its content."""
        path = self._cache.scratch(Path(name).name)
        try:
            self.download(name, path)
            return self._cache.adopt(path)
        finally:
            path.unlink(missing_ok=True)

    def download(self, name: str, to: Path) -> None:
        """Copy an object to a path of this machine.

        Raises:
            FileNotFoundError: It is not there.
            StoreError: It cannot be read, or there is no room.
        """
        with reporting(to):
            to.touch()
        with self._reaching(name) as (files, path):
            try:
                files.get_file(path, str(to))
            except OSError as error:
                if is_full(error):
                    with reporting(to):
                        raise
                raise

    def stage(self, name: str) -> Path:
        """Return a path on this machine."""
        return self._cache.scratch(Path(name).name)

    def commit(
        self, staged: Mapping[str, Path], stale: Iterable[str], mark: str, content: bytes
    ) -> bytes | None:
        """Put the staged files, and then ``mark`` if it is absent.

        Raises:
            StoreError: Another build put other files meanwhile (T0520), or they cannot be put.
        """
        with suppress(FileNotFoundError):
            return self.read(mark)
        self._put(dict(_flat(staged)))
        for name in stale:
            with suppress(FileNotFoundError), self._reaching(name) as (files, path):
                files.rm_file(path)
        if self.create(mark, content):
            return None
        theirs = self.read(mark)
        if theirs != content:
            # One has put files over the other's: which, nobody knows.
            self.remove(mark)
            message = f"two builds wrote {self.spell(mark)} at once, and not the same"
            help_ = "let builds of one store use equal versions of libraries, and build again"
            raise StoreError.of("T0520", message, help_)
        return theirs

    def discard(self, mark: str, names: Iterable[str]) -> None:
        """Remove ``mark``, and then the files that it tells of."""
        for name in (mark, *names):
            self.remove(name)

    def sweep(self) -> int:
        """Remove what killed writers left on this machine; they leave nothing half behind the URL."""
        return self._cache.sweep()

    @property
    def _cache(self) -> Cache:
        return Cache.of_user(self.access.cache_bytes)

    def _put(self, files_by_name: Mapping[str, Path]) -> None:
        first = next(iter(files_by_name))
        with self._writing(first) as (files, path):
            root = path.removesuffix(first)
            to = [f"{root}{name}" for name in files_by_name]
            files.put([str(path) for path in files_by_name.values()], to)

    def _walk(self, folder: str) -> Iterator[tuple[str, int]]:
        with self._reaching(folder) as (files, path):
            found = files.find(path, detail=True)
        start = len(path) - len(folder)
        return ((name[start:], info["size"]) for name, info in found.items())

    def _list(self, folder: str) -> Iterator[tuple[str, str]]:
        try:
            with self._reaching(folder) as (files, path):
                entries = files.ls(path, detail=True)
        except FileNotFoundError:
            return
        for entry in entries:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            if not name.startswith("."):
                yield name, entry["type"]

    @contextmanager
    def _writing(self, name: str) -> Generator[tuple[Any, str]]:
        try:
            with self._reaching(name) as reached:
                yield reached
        except FileNotFoundError:
            message = f"cannot write {self.spell(name)}: there is no such bucket"
            raise StoreError.of("T0520", message, "make the bucket first") from None

    @contextmanager
    def _reaching(self, name: str) -> Generator[tuple[Any, str]]:
        """Give the file system and the path of an object, and tell what the file system says."""
        files = self.access.file_system(self.url)
        path = files._strip_protocol(self.url)  # noqa: SLF001 - there is no public way
        try:
            with nullcontext() if self.is_shared else _MEMORY_LOCK:
                yield files, f"{path}/{name}" if name else path
        except (FileNotFoundError, FileExistsError, TaskloomError):
            raise
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            raise self.access.explain(error, self.spell(name)) from None


def _flat(staged: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    for name, path in staged.items():
        if path.is_dir():
            yield from ((f"{name}/{file.name}", file) for file in sorted(path.iterdir()))
        else:
            yield name, path
