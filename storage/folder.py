"""Folders: where the files of a store lie, on this machine or behind a URL.

A store names its files relative to its folder, with ``/``. `LocalFolder` renames finished files into place
under a lock, flushes them, and maps them where they lie. `RemoteFolder`, in a module beside this one, puts
whole objects, lets the last one in only if it is absent, and maps copies of them.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .files import (
    locked,
    make_directory,
    publish,
    read_file,
    remove,
    reporting,
    sweep,
    sync,
    temporary_path,
    write_atomic,
)


class Folder(Protocol):
    """Where files lie; a name is relative to it."""

    @property
    def is_near(self) -> bool:
        """Whether files are mapped where they lie, so that looking at one costs next to nothing."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the same files."""
        ...

    def spell(self, name: str = "") -> str:
        """Return what people call a file, or the folder itself."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: It is not there; only the caller knows what that means.
            StoreError: It cannot be read.
        """
        ...

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of those of ``names`` that are there.

        Raises:
            StoreError: One cannot be read.
        """
        ...

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file, in place of what was there; a reader sees all of it or none."""
        ...

    def create(self, name: str, content: bytes | memoryview) -> bool:
        """Write a file, whose content its name tells, unless it is there; return whether it was written."""
        ...

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None where there is none."""
        ...

    def written_ns(self, name: str) -> int:
        """Return when a file was last written, in nanoseconds; 0 if that is not known."""
        ...

    def sizes(self, folder: str, names: Iterable[str]) -> Mapping[str, int]:
        """Return the sizes of those of ``names``, all somewhere below ``folder``, that are there."""
        ...

    def total(self, folder: str) -> int:
        """Return the size of all files below ``folder`` together."""
        ...

    def files(self, folder: str) -> list[str]:
        """Return the own names of the files right in ``folder``, hidden ones left out; none if it is absent."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Return the own names of the folders right in ``folder``, hidden ones left out."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        ...

    def copied(self, name: str) -> AbstractContextManager[Path]:
        """Give the content of a file, as it is now, as a file on this machine.

        Raises:
            FileNotFoundError: It is not there.
            StoreError: It cannot be read.
        """
        ...

    def borrowed(self, name: str, digest: str, num_bytes: int) -> AbstractContextManager[Path]:
        """Give a file that never changes, of a known digest, as a file on this machine.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It was read from afar, and is not what its digest says.
            StoreError: It cannot be read.
        """
        ...

    def stage(self, name: str) -> Path:
        """Return where to write a file, or a folder of files, that `commit` is to call ``name``."""
        ...

    def commit(
        self, staged: Mapping[str, Path], stale: Iterable[str], mark: str, content: bytes
    ) -> bytes | None:
        """Let staged files be there under their names, and last of all ``mark``, which tells that they are.

        Args:
            staged: Where the files were written, by name.
            stale: Files to remove, if they are there.
            mark: Name of the file that is written last.
            content: What to write to it.

        Returns:
            The content of ``mark`` if it was there before: somebody else's files are kept. None otherwise.
        """
        ...

    def discard(self, mark: str, names: Iterable[str]) -> None:
        """Remove ``mark``, and then the files that it tells of."""
        ...

    def sweep(self) -> int:
        """Remove what killed writers left behind; return how many files and folders."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder on a file system of this machine."""

    path: Path

    @property
    def is_near(self) -> bool:
        """Files are mapped where they lie."""
        return True

    @property
    def is_shared(self) -> bool:
        """Other processes see the same files."""
        return True

    def spell(self, name: str = "") -> str:
        """Return the path of a file."""
        return str(self.path / name)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return read_file(self.path / name)

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Read one after the other."""
        found: dict[str, bytes] = {}
        for name in names:
            with suppress(FileNotFoundError):
                found[name] = self.read(name)
        return found

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file under a temporary name, and rename it."""
        write_atomic(self.path / name, content)

    def create(self, name: str, content: bytes | memoryview) -> bool:
        """Write a file unless it is there; two writers at once write the same."""
        if (self.path / name).exists():
            return False
        self.write(name, content)
        return True

    def size(self, name: str) -> int | None:
        """Return the size of a file."""
        path = self.path / name
        with reporting(path):
            return path.stat().st_size if path.is_file() else None

    def written_ns(self, name: str) -> int:
        """Return when a file was last written."""
        return (self.path / name).stat().st_mtime_ns

    def sizes(self, folder: str, names: Iterable[str]) -> Mapping[str, int]:
        """Ask for the size of each of ``names``."""
        del folder
        found = ((name, self.path / name) for name in names)
        return {name: path.stat().st_size for name, path in found if path.exists()}

    def total(self, folder: str) -> int:
        """Add up the sizes of the files below ``folder``."""
        paths = (path for path in (self.path / folder).rglob("*.*") if path.is_file())
        return sum(path.stat().st_size for path in paths)

    def files(self, folder: str) -> list[str]:
        """List the files right in ``folder``."""
        return [entry.name for entry in self._list(folder) if not entry.is_dir()]

    def folders(self, folder: str) -> list[str]:
        """List the folders right in ``folder``."""
        return [entry.name for entry in self._list(folder) if entry.is_dir()]

    def remove(self, name: str) -> None:
        """Remove a file or a folder."""
        remove(self.path / name)

    @contextmanager
    def copied(self, name: str) -> Generator[Path]:
        """Give the file itself."""
        yield self.path / name

    @contextmanager
    def borrowed(self, name: str, digest: str, num_bytes: int) -> Generator[Path]:
        """Give the file itself; its content is not compared."""
        del digest, num_bytes
        yield self.path / name

    def stage(self, name: str) -> Path:
        """Return a temporary path beside the file's own."""
        path = self.path / name
        make_directory(path.parent)
        return temporary_path(path)

    def commit(
        self, staged: Mapping[str, Path], stale: Iterable[str], mark: str, content: bytes
    ) -> bytes | None:
        """Rename the staged files, flush their names to the disk, and write ``mark``."""
        directory = (self.path / mark).parent
        with locked(directory):
            if (self.path / mark).exists():
                return self.read(mark)
            for name, path in staged.items():
                publish(path, self.path / name)
            for name in stale:
                self.remove(name)
            with reporting(directory):
                for parent in {(self.path / name).parent for name in staged}:
                    sync(parent)
            self.write(mark, content)
            return None

    def discard(self, mark: str, names: Iterable[str]) -> None:
        """Remove files under the lock of their folder."""
        directory = (self.path / mark).parent
        if not directory.is_dir():
            return
        with locked(directory):
            for name in (mark, *names):
                self.remove(name)
            sync(directory)

    def sweep(self) -> int:
        """Remove temporary files whose writers are gone."""
        return sweep(self.path)

    def _list(self, folder: str) -> list[os.DirEntry[str]]:
        path = self.path / folder
        with reporting(path):
            try:
                with os.scandir(path) as entries:
                    return [entry for entry in entries if not entry.name.startswith(".")]
            except (FileNotFoundError, NotADirectoryError):
                return []
