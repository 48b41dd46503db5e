"""Files of rows: where the content of a source lies, on this machine, behind a URL or captured in a store.

Readers of all formats want a file on this machine. Behind a URL it is a copy in the cache, whose content is
compared with the digest that the source's record holds; so a job needs no more than the URL and how to open
it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..graph.errors import SourceError, StoreError, TaskloomError, suggest
from .access import Access, check_url
from .files import digest_file, local_path, scheme_of
from .folder import Folder
from .remote import Facts, RemoteFolder

AccessTo = Callable[[str], Access]


class RowFile(Protocol):
    """A file that rows are read from."""

    @property
    def name(self) -> str:
        """What records and people call it."""
        ...

    @property
    def is_compared(self) -> bool:
        """Whether opening it compares its content with the digest, so that it cannot have changed."""
        ...

    def facts(self) -> Facts | None:
        """Return what its file system tells of it, or None if it is gone."""
        ...

    def opened(self, digest: str, num_bytes: int) -> AbstractContextManager[Path]:
        """Give its content as a file on this machine.

        Raises:
            SourceError: It is gone, or no longer what ``digest`` says.
            StoreError: It cannot be read; or it was captured, and is gone or damaged.
        """
        ...


class FoundFile(RowFile, Protocol):
    """A file that no record knows yet."""

    def digest(self) -> str:
        """Return the digest of its content, as it is now."""
        ...

    def whole(self) -> AbstractContextManager[Path]:
        """Give its content, as it is now, as a file on this machine."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on a file system of this machine."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def is_compared(self) -> bool:
        """Size and time of writing have to do."""
        return False

    def facts(self) -> Facts | None:
        """Return its size and when it was written."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        return Facts(stat.st_size, stat.st_mtime_ns, "")

    def digest(self) -> str:
        """Read it."""
        return digest_file(self.path)

    @contextmanager
    def whole(self) -> Generator[Path]:
        """Give the file itself."""
        yield self.path

    @contextmanager
    def opened(self, digest: str, num_bytes: int) -> Generator[Path]:
        """Give the file itself."""
        del digest, num_bytes
        yield self.path


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file behind a URL."""

    folder: RemoteFolder
    own_name: str

    @property
    def name(self) -> str:
        """Its URL."""
        return self.folder.spell(self.own_name)

    @property
    def is_compared(self) -> bool:
        """A copy is compared when it comes."""
        return True

    def facts(self) -> Facts | None:
        """Ask its file system."""
        return self.folder.facts(self.own_name)

    def digest(self) -> str:
        """Fetch it into the cache."""
        return self.folder.adopted(self.own_name)

    def whole(self) -> AbstractContextManager[Path]:
        """Give a copy that is removed afterwards."""
        return self.folder.copied(self.own_name)

    def opened(self, digest: str, num_bytes: int) -> AbstractContextManager[Path]:
        """Give the copy in the cache, fetched if it is not there."""
        return _enter(self.folder.borrowed(self.own_name, digest, num_bytes), self._tell)

    def _tell(self, error: FileNotFoundError | ValueError) -> SourceError:
        if isinstance(error, FileNotFoundError):
            return SourceError.of("T0401", f"{self.name} is gone", "put it back, or build again")
        message = f"{self.name} has changed since it was last looked at"
        return SourceError.of("T0406", message, "build again when nobody writes to it")


@dataclass(frozen=True, slots=True)
class CapturedFile:
    """A file of a store."""

    folder: Folder
    own_name: str

    @property
    def name(self) -> str:
        """Where it lies."""
        return self.folder.spell(self.own_name)

    @property
    def is_compared(self) -> bool:
        """A copy from afar is compared when it comes; of others, the size has to do."""
        return not self.folder.is_near

    def facts(self) -> Facts | None:
        """Return its size; it never changes."""
        size = self.folder.size(self.own_name)
        return None if size is None else Facts(size, 0, "")

    def opened(self, digest: str, num_bytes: int) -> AbstractContextManager[Path]:
        """Give the file, or a copy in the cache."""
        return _enter(self.folder.borrowed(self.own_name, digest, num_bytes), self._tell)

    def _tell(self, error: FileNotFoundError | ValueError) -> StoreError:
        if isinstance(error, FileNotFoundError):
            return StoreError.of("T0504", f"{self.name} is gone", "build again")
        message = f"{self.name} is damaged: {error}"
        return StoreError.of("T0504", message, "delete it and build again")


@contextmanager
def _enter(
    fetch: AbstractContextManager[Path],
    tell: Callable[[FileNotFoundError | ValueError], TaskloomError],
) -> Generator[Path]:
    """Enter ``fetch``; what goes wrong before the block, and not in it, is raised as ``tell`` says."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(fetch)
        except (FileNotFoundError, ValueError) as error:
            raise tell(error) from None
        yield path


def find_row_files(location: str | os.PathLike[str], access_to: AccessTo) -> list[FoundFile]:
    """Return the file that ``location`` names, or those that it matches if it is a pattern, sorted.

    Raises:
        SourceError: There is none.
        StoreError: A URL cannot be used (T0501) or reached (T0520).
    """
    if scheme_of(location):
        url = os.fspath(location)
        return list(_find_remote(url, access_to(url)))
    return [LocalFile(path) for path in _find_local(local_path(location))]


def row_file(name: str, access_to: AccessTo) -> RowFile:
    """Return the file that a record calls ``name``."""
    if scheme_of(name):
        return RemoteFile(*_split(name, access_to(name)))
    return LocalFile(Path(name))


def _split(url: str, access: Access) -> tuple[RemoteFolder, str]:
    """Return the bucket or host of ``url``, and what follows."""
    check_url(url)
    scheme, _, rest = url.partition("://")
    root, _, name = rest.partition("/")
    return RemoteFolder(f"{scheme}://{root}", access), name


def _find_remote(url: str, access: Access) -> Iterator[FoundFile]:
    folder, name = _split(url, access)
    if folder.facts(name) is not None:
        yield RemoteFile(folder, name)
        return
    if glob.has_magic(name):
        found = folder.glob(name)
        if not found:
            raise SourceError.of("T0401", f"no file matches {url}")
        yield from (RemoteFile(folder, each) for each in found)
        return
    parent, _, own = name.rpartition("/")
    if folder.files(name) or folder.folders(name):
        raise _is_folder(url)
    known = folder.files(parent)
    help_ = suggest(own, known) if known else f"there is nothing at {folder.spell(parent)}"
    raise SourceError.of("T0401", f"there is no file {url}", help_)


def _find_local(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        raise _is_folder(str(path))
    text = str(path)
    if glob.has_magic(text):
        if found := sorted(glob.glob(text, recursive=True)):  # noqa: PTH207 - the pattern is absolute
            return [Path(item) for item in found if Path(item).is_file()]
        raise SourceError.of("T0401", f"no file matches {text}")
    folder = path.parent
    known = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    help_ = suggest(path.name, known) if known else f"there is no folder {folder}"
    raise SourceError.of("T0401", f"there is no file {path}", help_)


def _is_folder(name: str) -> SourceError:
    message, help_ = f"{name} is a folder", f'name its files, for example "{name}/*.parquet"'
    return SourceError.of("T0402", message, help_)
