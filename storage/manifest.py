"""Manifests: the file of a checkpoint that says which others there are, written last.

It has the version of the format, and of every other file the size and the digest of its content.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from safetensors import SafetensorError

from ..graph.errors import CheckpointError
from .files import digest_file, encode_json

NAME: Final = "manifest.json"

NEWEST: Final = 2
"""The newest format that is read."""


class FileFacts(NamedTuple):
    """What is known of a file.

    Attributes:
        bytes: Its size.
        xxh3: Digest of its content, 32 hexadecimal digits.
    """

    bytes: int
    xxh3: str

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Return the facts of the file at ``path``, having read all of it."""
        return cls(path.stat().st_size, digest_file(path))


class Manifest(NamedTuple):
    """What a manifest says.

    Attributes:
        format: Version of the format.
        files: Facts of every other file, by its name.
    """

    format: int
    files: Mapping[str, FileFacts]

    def encode(self) -> bytes:
        """Return the content of the file."""
        files = {name: facts._asdict() for name, facts in self.files.items()}
        return encode_json({"format": self.format, "files": files})

    def check(self, root: Path, name: str) -> None:
        """Compare a file with what is known of it.

        Raises:
            CheckpointError: It is missing, or another (T0702).
        """
        path, wanted = root / name, self.files.get(name)
        if wanted is None:
            raise damaged(root, f"its manifest does not name {name}")
        try:
            size = path.stat().st_size
            if size != wanted.bytes:
                raise damaged(path, f"it has {size} bytes, {wanted.bytes} were written")
            if digest_file(path) != wanted.xxh3:
                raise damaged(path, "its checksum is not that of what was written")
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from error


def read_manifest(root: Path) -> Manifest:
    """Return the manifest of the checkpoint at ``root``.

    Raises:
        CheckpointError: It is missing (T0701), damaged (T0702) or of a newer format (T0703).
    """
    try:
        content = json.loads((root / NAME).read_bytes())
        files = {name: FileFacts(**facts) for name, facts in content["files"].items()}
        manifest = Manifest(int(content["format"]), files)
    except OSError as error:
        message = f"there is no checkpoint at {root}: {error.strerror}"
        help_ = "give the directory that training wrote, such as runs/digits/step-00000300"
        raise CheckpointError.of("T0701", message, help_) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(root, f"{NAME} is not understood") from error
    if manifest.format > NEWEST:
        message = (
            f"checkpoint {root} has format {manifest.format}, this version reads up to {NEWEST}"
        )
        raise CheckpointError.of("T0703", message, "use the version of taskloom that wrote it")
    return manifest


def describe_files(root: Path) -> dict[str, FileFacts]:
    """Return the facts of every file below ``root``, by its name there."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): FileFacts.of(path) for path in files}


def damaged(path: Path, what: str) -> CheckpointError:
    """Return the error that says that ``path`` is damaged, and how."""
    help_ = (
        "use another checkpoint of the run, or a copy of this one\n"
        "training goes on from the one before it once its directory is deleted"
    )
    return CheckpointError.of("T0702", f"{path} is damaged: {what}", help_)


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what the disk refuses while the checkpoint at ``path`` is written into an error that says so.

    Raises:
        CheckpointError: It cannot be written (T0704).
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        message = f"cannot write checkpoint {path}: {why or error}"
        help_ = "make room or choose another place; earlier checkpoints are whole"
        raise CheckpointError.of("T0704", message, help_) from error
