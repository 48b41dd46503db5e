"""The cache: files of stores and sources behind URLs, kept on this machine.

A file is kept under the digest of its content. It enters when its size and digest are right, by a rename, so
a half or damaged one is never there; those used longest ago leave when there is no room. Processes share it.
Who uses a file holds a link of its own, which outlives the file's leaving.

    <cache>/files/<ab>/<digest>     ab: the digest's first digits; processes lock these folders
    <cache>/scratch/                what is on its way in or out
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..graph.errors import StoreError
from .files import digest_file, locked, reporting, sweep, temporary_path

FOLDER: Final = "TASKLOOM_CACHE"
"""Environment variable with the cache's folder."""

LIMIT: Final = "TASKLOOM_CACHE_BYTES"
"""Environment variable with the most bytes of files to keep."""

NUM_BYTES: Final = 10_000_000_000
"""Most bytes of files to keep, if nobody says."""

Download = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Cache:
    """Files on this machine, at most ``num_bytes`` of them beside the latest one."""

    path: Path
    num_bytes: int

    @classmethod
    def of_user(cls, num_bytes: int | None = None) -> Cache:
        """Return the cache in the folder that `FOLDER` names, by default in the user's folder for caches.

        Args:
            num_bytes: Most bytes to keep; by default what `LIMIT` says.

        Raises:
            StoreError: `LIMIT` is no number.
        """
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        path = Path(os.environ.get(FOLDER) or Path(base) / "taskloom").expanduser().absolute()
        text = os.environ.get(LIMIT) or str(NUM_BYTES)
        if not text.isdecimal() or not int(text):
            raise StoreError.of("T0501", f'{LIMIT} must be a number of bytes, got "{text}"')
        return cls(path, num_bytes or int(text))

    @contextmanager
    def borrow(
        self, digest: str, num_bytes: int, download: Download, suffix: str = ""
    ) -> Generator[Path]:
        """Give the file with ``digest``, which ``download`` fetches if it is not here.

        Args:
            digest: Of its content.
            num_bytes: Its size.
            download: Writes it to a path.
            suffix: Ending of the name that it is given under.

        Raises:
            ValueError: What was downloaded is not what it should be.
            StoreError: The cache cannot be written.
        """
        link = self.scratch(f"{digest}{suffix}")
        try:
            self._link(digest, num_bytes, download, link)
            yield link
        finally:
            link.unlink(missing_ok=True)

    def adopt(self, path: Path) -> str:
        """Keep a finished file of `scratch`, which is used up, and return its digest."""
        digest, num_bytes = digest_file(path), path.stat().st_size
        with self._entering(digest) as kept, reporting(kept):
            self._make_room(num_bytes)
            path.replace(kept)
        return digest

    def scratch(self, name: str) -> Path:
        """Return a path that nobody else writes, on the same file system as the cache."""
        folder = self.path / "scratch"
        with reporting(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return temporary_path(folder / name)

    def sweep(self) -> int:
        """Remove what killed processes left in `scratch`; return how many files and folders."""
        return sweep(self.path / "scratch")

    def _link(self, digest: str, num_bytes: int, download: Download, link: Path) -> None:
        with self._entering(digest) as kept:
            # Whoever removes a file to make room holds no lock of its folder.
            with suppress(FileNotFoundError):
                os.link(kept, link)
                os.utime(kept)
                return
            download(link)
            with reporting(kept):
                _check(link, digest, num_bytes)
                self._make_room(num_bytes)
                os.link(link, kept)

    @contextmanager
    def _entering(self, digest: str) -> Generator[Path]:
        """Keep others from fetching the file with ``digest``, and give its place."""
        path = self.path / "files" / digest[:2] / digest
        with reporting(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            yield path

    def _make_room(self, num_bytes: int) -> None:
        """Remove the files used longest ago, so that one of ``num_bytes`` has room."""
        kept = sorted(self._kept())
        left = sum(size for _, size, _ in kept) + num_bytes
        for _, size, path in kept:
            if left <= self.num_bytes:
                return
            path.unlink(missing_ok=True)
            left -= size

    def _kept(self) -> Iterator[tuple[int, int, Path]]:
        """Yield when each file was last used, in ns, its size and its path."""
        for path in (self.path / "files").glob("*/*"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                if not path.name.startswith("."):
                    yield stat.st_mtime_ns, stat.st_size, path


def _check(path: Path, digest: str, num_bytes: int) -> None:
    if (size := path.stat().st_size) != num_bytes:
        message = f"it has {size} bytes instead of {num_bytes}"
        raise ValueError(message)
    if digest_file(path) != digest:
        message = "it does not match its checksum"
        raise ValueError(message)
