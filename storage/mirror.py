"""Mirrors: checkpoints behind a URL, so that a run outlives its machine.

A checkpoint is copied file by file, its manifest last and only if there is none of that name: without one, what
is there is no checkpoint, and is put again by the next copy. It is fetched the other way round, into a
directory under a temporary name, and compared with its checksums when it is read. What a run tells beside its
checkpoints is put first, and fetched first: a checkpoint that is there has all that was told until then.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from .checkpoint import is_step, latest_checkpoint, step_of
from .files import make_directory, sync, temporary_path, write_atomic
from .manifest import NAME, read_manifest
from .remote import RemoteFolder


def copy_checkpoint(path: Path, mirror: RemoteFolder) -> None:
    """Copy the checkpoint at ``path`` to ``mirror``.

    Raises:
        StoreError: It cannot be written there.
    """
    files = {f"{path.name}/{name}": path / name for name in read_manifest(path).files}
    mirror.commit(files, (), f"{path.name}/{NAME}", (path / NAME).read_bytes())


def copy_beside(run_dir: Path, names: Iterable[str], mirror: RemoteFolder) -> None:
    """Copy what stands beside checkpoints: files, and folders of files that are written once, by ``names``.

    What a run does not have is passed over.

    Raises:
        StoreError: It cannot be written there.
    """
    for name in names:
        path = run_dir / name
        if path.is_file():
            mirror.write(name, path.read_bytes())
        elif path.is_dir():
            files = {f"{name}/{file.name}": file for file in path.iterdir() if file.is_file()}
            there = mirror.sizes(name, files)
            for place, file in files.items():
                if there.get(place) != file.stat().st_size:
                    mirror.write(place, file.read_bytes())


def fetch_beside(mirror: RemoteFolder, names: Iterable[str], run_dir: Path) -> None:
    """Fetch what `copy_beside` has put of ``names``, in place of what is in ``run_dir``.

    Raises:
        StoreError: It cannot be read there, or be written here.
    """
    wanted = set(names)
    places = [name for name in mirror.files("") if name in wanted]
    for folder in wanted & set(mirror.folders("")):
        places += [f"{folder}/{name}" for name in mirror.files(folder)]
    for place in places:
        write_atomic(run_dir / place, mirror.read(place))


def list_copies(mirror: RemoteFolder) -> list[str]:
    """Return the names of the checkpoints in ``mirror`` that are whole, in the order of their steps."""
    names = [name for name in mirror.folders("") if is_step(name)]
    return sorted(name for name in names if mirror.size(f"{name}/{NAME}") is not None)


def find_later(mirror: RemoteFolder, run_dir: Path) -> Path | None:
    """Return where in ``run_dir`` the last checkpoint of ``mirror`` belongs, unless one there is as late.

    Raises:
        StoreError: The mirror cannot be read.
    """
    if not (names := list_copies(mirror)):
        return None
    path, here = run_dir / names[-1], latest_checkpoint(run_dir)
    return path if here is None or step_of(here) < step_of(path) else None


def fetch_copy(mirror: RemoteFolder, path: Path) -> None:
    """Fetch the checkpoint of ``mirror`` that belongs at ``path``.

    Raises:
        StoreError: It cannot be read there, or be written here.
        CheckpointError: Its manifest is damaged, or of a newer format.
    """
    make_directory(path.parent)
    temporary = temporary_path(path)
    try:
        temporary.mkdir()
        mirror.download(f"{path.name}/{NAME}", temporary / NAME)
        for name in read_manifest(temporary).files:
            (temporary / name).parent.mkdir(exist_ok=True)
            mirror.download(f"{path.name}/{name}", temporary / name)
            sync(temporary / name)
        temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep_copies(mirror: RemoteFolder, names: Collection[str]) -> None:
    """Remove all checkpoints of ``mirror`` but those called ``names``."""
    for name in list_copies(mirror):
        if name not in names:
            mirror.discard(f"{name}/{NAME}", [name])
