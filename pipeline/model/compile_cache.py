"""Compiled code that travels: the folders of torch's compiler in one archive, with what it depends on.

The folders hold all that a compiler made, machine code of the host and of the GPU included, and serve under
any path. torch's own archive of its caches leaves the machine code of the host out, which is most of the time
that compiling takes.

Code that does not fit here is a miss, not an error: nothing is unpacked, and training compiles as if there
were no archive. An archive is code that will be run: load none that you would not install.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch._inductor.runtime.cache_dir_utils import cache_dir

from ...graph.errors import TrainingError
from ...storage.files import (
    TEMPORARY,
    local_path,
    make_directory,
    publish,
    replacing,
    reporting,
    temporary_path,
)
from .compile_key import CompileKey

FORMAT: Final = 1
_MANIFEST: Final = "taskloom-compiled.json"
_NO_ARCHIVE: Final = "it is no archive of compiled code, or damaged"
_SKIPPED: Final = (".lock", ".pyc")
_DAMAGED: Final = (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What went into an archive.

    Attributes:
        path: The archive.
        num_files: Files in it.
        num_bytes: Bytes of these.
    """

    path: Path
    num_files: int
    num_bytes: int

    def __str__(self) -> str:
        size = self.path.stat().st_size
        return f"{self.path}: {self.num_files:,} files, {self.num_bytes:,} bytes in {size:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came out of an archive.

    Attributes:
        path: The archive.
        num_new: Files that were not there before.
        num_known: Files that were.
        differences: Why nothing fits, in sentences; empty for a hit.
    """

    path: Path
    num_new: int = 0
    num_known: int = 0
    differences: tuple[str, ...] = ()

    @property
    def is_hit(self) -> bool:
        """Whether the archive was made by the like of this machine."""
        return not self.differences

    def __str__(self) -> str:
        if self.is_hit:
            return (
                f"hit: {self.num_new:,} files of {self.path} are new, {self.num_known:,} were here"
            )
        reasons = "".join(f"\n  {difference}" for difference in self.differences)
        return f"miss: nothing of {self.path} fits here, so training compiles anew{reasons}"


def find_folders() -> dict[str, Path]:
    """Return where torch's compiler keeps what it makes, by name; one may be inside the other."""
    inductor = Path(cache_dir())
    triton = os.environ.get("TRITON_CACHE_DIR")
    return {"triton": Path(triton) if triton else inductor / "triton" / "0", "inductor": inductor}


def pack_compiled(path: str | Path) -> Packed:
    """Write all that is compiled here into the archive ``path``, which appears when it is whole.

    Raises:
        TrainingError: Nothing is compiled yet (T0751).
        StoreError: ``path`` is a URL, or the archive cannot be written.
    """
    path = local_path(path)
    files = _list_files(find_folders())
    if not files:
        message = f"nothing is compiled yet in {find_folders()['inductor']}"
        raise TrainingError.of("T0751", message, 'train a step with compile="on" first')
    manifest = {"format": FORMAT, "key": CompileKey.here().to_plain()}
    text = json.dumps(manifest, indent=1).encode()
    with (
        replacing(path) as temporary,
        reporting(path),
        tarfile.open(temporary, "w:gz", compresslevel=3) as archive,
    ):
        told = tarfile.TarInfo(_MANIFEST)
        told.size = len(text)
        archive.addfile(told, io.BytesIO(text))
        for name, file in files.items():
            archive.add(file, name, recursive=False)
    num_bytes = sum(file.stat().st_size for file in files.values())
    return Packed(path=path, num_files=len(files), num_bytes=num_bytes)


def load_compiled(path: str | Path) -> Loaded:
    """Unpack the archive ``path`` to where torch's compiler looks, if it fits this machine.

    Files appear one by one, each whole; those that are there already stay.

    Raises:
        TrainingError: There is no such archive, or it is damaged; nothing of it was unpacked (T0750).
    """
    path = Path(path)
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            key = _read_key(archive)
            if differences := CompileKey.here().differences(key):
                return Loaded(path=path, differences=differences)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=cache_dir()) as scratch:
                # All is unpacked, to the checksum at the end, before the first file takes its place: of a
                # damaged archive nothing is left.
                archive.extractall(scratch, filter="data")
                while stream.read(1 << 20):
                    pass
                return _move(Path(scratch), path)
    except OSError as error:
        reason = error.strerror or _NO_ARCHIVE
    except _DAMAGED:
        reason = _NO_ARCHIVE
    raise TrainingError.of("T0750", f"cannot load {path}: {reason}", "pack it again")


def _list_files(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return what is in ``folders``, each file once, by its name in the archive."""
    names: dict[Path, str] = {}
    for name, folder in folders.items():
        for file in sorted(folder.rglob("*")):
            is_whole = TEMPORARY not in str(file) and file.suffix not in _SKIPPED
            if is_whole and file.is_file():
                names.setdefault(file, f"{name}/{file.relative_to(folder).as_posix()}")
    return {name: file for file, name in names.items()}


def _read_key(archive: tarfile.TarFile) -> CompileKey:
    """Return the key of an archive.

    Raises:
        ValueError: The archive begins with something else.
    """
    first = archive.next()
    file = archive.extractfile(first) if first is not None and first.name == _MANIFEST else None
    if file is None:
        raise ValueError("no manifest")
    manifest: Any = json.load(file)
    if manifest["format"] != FORMAT:
        raise ValueError("another format")
    return CompileKey.from_plain(manifest["key"])


def _move(unpacked: Path, path: Path) -> Loaded:
    num_new = num_known = 0
    for name, folder in find_folders().items():
        for file in filter(Path.is_file, sorted((unpacked / name).rglob("*"))):
            target = folder / file.relative_to(unpacked / name)
            if target.exists():
                num_known += 1
                continue
            make_directory(target.parent)
            publish(Path(shutil.copy(file, temporary_path(target))), target)
            num_new += 1
    return Loaded(path=path, num_new=num_new, num_known=num_known)
