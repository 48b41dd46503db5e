"""Files that are whole or absent: written under a temporary name, flushed to the disk, then renamed.

A crash at any moment leaves at most temporary files, which `sweep` removes. What the operating system refuses
becomes a `StoreError` that says what to do.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import xxhash

from ..graph.errors import StoreError

TEMPORARY: Final = ".tmp."
DAY_S: Final = 86_400

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_CUT_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?:://|::)")
_WRITER = re.compile(re.escape(TEMPORARY) + r"(?P<host>[0-9a-f]{8})\.(?P<pid>\d+)\.")
_COUNTER = itertools.count()
_HOST = xxhash.xxh3_64_hexdigest(socket.gethostname().encode())[:8]


def scheme_of(location: str | os.PathLike[str]) -> str:
    """Return the scheme of a URL, such as ``"s3"``; empty for a path, and for a URL of one (``file://``)."""
    scheme = _SCHEME.match(os.fspath(location))
    return "" if scheme is None or scheme[1] == "file" else scheme[1]


def local_path(location: str | os.PathLike[str]) -> Path:
    """Return ``location`` as an absolute path.

    Raises:
        StoreError: It is the URL of something that is not on this machine's file systems.
    """
    text = os.fspath(location)
    # A `Path` of a URL, as the command line makes it, has one slash left of two.
    if scheme := scheme_of(_CUT_SCHEME.sub(r"\1://", text)):
        message = f"a folder of this machine is needed, and this one is on {scheme}"
        help_ = "give a path: stores and files of rows may be behind URLs, runs and checkpoints not"
        raise StoreError.of("T0501", message, help_)
    if text.startswith("file:"):
        return Path(text.removeprefix("file:").removeprefix("//")).absolute()
    return Path(text).expanduser().absolute()


@contextmanager
def reporting(path: Path, need: int = 0) -> Generator[None]:
    """Turn what the operating system says about ``path`` into a `StoreError`.

    Args:
        path: The file that is being written, read or made.
        need: Bytes about to be written, for the message.
    """
    try:
        yield
    except OSError as error:
        raise _explain(error, path, need) from error


def is_full(error: OSError) -> bool:
    """Return whether ``error`` says that there is no room."""
    return error.errno in _FULL


def digest_bytes(content: bytes | memoryview) -> str:
    """Return the digest that identifies ``content``: 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(content)


def digest_file(path: Path) -> str:
    """Return the digest of the content of ``path``: 32 hexadecimal digits."""
    state = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.hexdigest()


def temporary_path(path: Path) -> Path:
    """Return a name beside ``path`` that nobody else writes, and that tells who does."""
    return path.with_name(f"{TEMPORARY}{_HOST}.{os.getpid()}.{next(_COUNTER)}.{path.name}")


def make_directory(path: Path) -> None:
    """Make ``path`` and its parents, so that they outlive a crash."""
    if path.is_dir():
        return
    with reporting(path):
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file to the disk, or the names inside a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` to ``path``; a reader sees all of it or none.

    Raises:
        StoreError: The disk is full, or the store cannot be written.
    """
    make_directory(path.parent)
    temporary = temporary_path(path)
    try:
        with reporting(path, len(content)):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what is to be told
            temporary.unlink(missing_ok=True)
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file or folder its name, in place of any leftover."""
    with reporting(path):
        if temporary.is_dir() and path.exists():
            shutil.rmtree(path)
        temporary.replace(path)


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a name to write a file or folder under; it becomes ``path`` if all goes well, or else nothing."""
    temporary = temporary_path(path)
    try:
        yield temporary
        publish(temporary, path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    with reporting(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Keep other processes out of ``directory`` while names change in it."""
    path = directory / ".lock"
    with reporting(path):
        file = path.open("wb")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sweep(root: Path) -> int:
    """Remove temporary files below ``root`` whose writers are gone; return how many there were.

    Writers on other machines cannot be asked: their files go when they have been still for a day.
    """
    stale = [path for path in root.rglob(f"{TEMPORARY}*") if _is_stale(path)]
    for path in stale:
        remove(path)
    return len(stale)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` to ``path``, equal records with equal bytes."""
    write_atomic(path, encode_json(record))


def encode_json(record: Mapping[str, Any]) -> bytes:
    """Return the bytes that `write_json` writes."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return f"{text}\n".encode()


def read_file(path: Path) -> bytes:
    """Return the content of ``path``.

    Raises:
        StoreError: The file cannot be read.
        FileNotFoundError: It is not there; only the caller knows what that means.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(str(path)) from error
    except OSError as error:
        raise _explain(error, path, 0) from error


def read_json(path: Path) -> Any:
    """Return the record in ``path``.

    Raises:
        StoreError: The file is damaged or cannot be read.
        FileNotFoundError: It is not there; only the caller knows what that means.
    """
    return decode_json(read_file(path), str(path))


def decode_json(content: bytes, name: str) -> Any:
    """Return the record that ``content`` of the file called ``name`` holds.

    Raises:
        StoreError: The file is damaged.
    """
    try:
        return json.loads(content)
    except ValueError as error:
        message = f"{name} is damaged: {error}"
        raise StoreError.of("T0504", message, "restore it from a copy, or build again") from error


def count_bytes(number: int) -> str:
    """Return ``number`` of bytes for people, such as ``"1.5 MB"``."""
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _explain(error: OSError, path: Path, need: int) -> StoreError:
    if error.errno in _FULL:
        free = count_bytes(shutil.disk_usage(_existing(path)).free)
        wanted = f"; {count_bytes(need)} were to be written" if need else ""
        message = f"disk is full: cannot write {path} ({free} free{wanted})"
        help_ = (
            "make room, or move the store or the run, and start again: what is committed is kept"
        )
        return StoreError.of("T0505", message, help_)
    if error.errno in _REFUSED:
        message = f"cannot write {path}: {os.strerror(error.errno)}"
        help_ = "a store must be writable to build into it, and `out` to train into it"
        return StoreError.of("T0506", message, help_)
    return StoreError.of("T0512", f"cannot use {path}: {error.strerror or error}")


def _existing(path: Path) -> Path:
    return next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))


def _is_stale(path: Path) -> bool:
    writer = _WRITER.match(path.name)
    if writer is None:
        return False
    if writer["host"] == _HOST:
        return not _is_alive(int(writer["pid"]))
    try:
        return time.time() - path.stat().st_mtime > DAY_S
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
