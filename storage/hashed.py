"""A file that is hashed as it is written: the checksums are of what was meant, not of what the disk kept."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import xxhash

from .files import reporting
from .receipt import Block, StoredFile


class HashedFile:
    """A new file that notes where blocks of rows lie in it, and their checksums.

    It is enough of a Python file for Arrow to write to.
    """

    def __init__(self, path: Path, first_row: int = 0) -> None:
        self.path = path
        self.closed = False
        with reporting(path):
            self._file = path.open("wb")
        self._size = 0
        self._begin = 0
        self._row = first_row
        self._all = xxhash.xxh3_128()
        self._block = xxhash.xxh3_64()
        self._blocks: list[Block] = []

    def write(self, data: bytes | memoryview) -> int:
        """Append ``data``.

        Raises:
            StoreError: The disk is full or the file cannot be written.
        """
        view = memoryview(data).cast("B")
        with reporting(self.path, view.nbytes):
            self._file.write(view)
        self._all.update(view)
        self._block.update(view)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def flush(self) -> None:
        """Do nothing: `finish` flushes."""

    def close(self) -> None:
        """Do nothing: Arrow closes what it has written to; `finish` and `abandon` end the file."""

    def abandon(self) -> None:
        """Close the file without a promise that it is on the disk."""
        self.closed = True
        with suppress(OSError):
            self._file.close()

    def begin_block(self) -> None:
        """Let a block begin here."""
        self._begin = self._size
        self._block.reset()

    def end_block(self, rows: int) -> None:
        """Let a block of ``rows`` rows end here."""
        size = self._size - self._begin
        block = Block(self._row, rows, self._begin, size, self._block.hexdigest())
        self._blocks.append(block)
        self._row += rows

    def finish(self, name: str) -> StoredFile:
        """Flush the file to the disk, close it and return its entry in a receipt.

        Raises:
            StoreError: The disk is full or the file cannot be written.
        """
        with reporting(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self.closed = True
        digest = self._all.hexdigest()
        return StoredFile(name=name, bytes=self._size, xxh3=digest, blocks=tuple(self._blocks))
