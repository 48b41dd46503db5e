"""Checkpoints: directories that are whole or absent.

    step-00000100/
      manifest.json          format version, and size and checksum of every other file
      record.json            instructions, graph, op versions, vocabulary: what the tensors mean
      artifacts/<name>       fitted things, byte for byte
      model.safetensors      tensors by name; of several processes, a file each
      training.safetensors   what only resuming needs: tensors of the optimizer
      training.json          and numbers: data position, sums for the log
      index.json             where the pieces of every tensor are

A checkpoint is written under a temporary name beside its own, flushed to the disk, and renamed. So
a process killed at any moment leaves the checkpoints before it, and at most a temporary directory,
which `keep_only` clears away. Nothing in it is code: no file is unpickled into objects.

That is format 2, which `begin_checkpoint` in `.saving` writes. A model alone has format 1, the one file
``model.safetensors`` beside record and artifacts; earlier versions kept what resuming needs in ``training.pt``.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..graph.errors import CheckpointError
from .files import encode_json, sweep, sync, temporary_path
from .manifest import NAME, Manifest, damaged, describe_files, read_manifest, writing
from .nested import join_nested
from .parts import read_parts

FORMAT: Final = 1
"""Format of a model alone."""

PLAIN: Final = "training.json"
"""What only resuming needs, tensors apart."""

_MODEL = "model.safetensors"
_TRAINING = "training.pt"
_RECORD = "record.json"
_ARTIFACTS = "artifacts"
_STEP = re.compile(r"step-(\d+)")
_ARTIFACT = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: Its directory.
        tensors: Tensors by name, on the CPU.
        record: What the tensors mean.
        artifacts: Contents of fitted things by name.
        training: What resuming needs, if it was asked for and is there.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    record: dict[str, Any]
    artifacts: dict[str, bytes]
    training: Any = None


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint of ``step`` belongs in ``run_dir``."""
    return run_dir / f"step-{step:08d}"


def write_checkpoint(
    path: Path,
    *,
    tensors: Mapping[str, torch.Tensor],
    record: Mapping[str, Any],
    artifacts: Mapping[str, bytes],
) -> None:
    """Write a model alone to ``path``, which does not exist yet.

    Args:
        path: Directory to become.
        tensors: Tensors by name; no two share memory.
        record: Data that JSON can hold.
        artifacts: Contents by name.

    Raises:
        CheckpointError: Something is there already (T0705), an artifact's name cannot be kept (T0706), or the
            disk refuses (T0704).
    """
    refuse_existing(path)
    files = encode_files(record, artifacts)
    temporary = temporary_path(path)
    try:
        with writing(path):
            (temporary / _ARTIFACTS).mkdir(parents=True)
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_tensors(whole, temporary / _MODEL)
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            manifest = Manifest(FORMAT, describe_files(temporary))
            (temporary / NAME).write_bytes(manifest.encode())
            for each in [*temporary.rglob("*"), temporary]:
                sync(each)
            temporary.rename(path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write ``tensors``, contiguous ones on the CPU, to a file that whoever may read its folder may read."""
    save_file(dict(tensors), path)
    # The library makes a file for its owner alone, as temporary ones are. The folder has the rights of the run.
    path.chmod(path.parent.stat().st_mode & 0o666)


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of the checkpoint at ``path``, having read nothing else of it.

    Raises:
        CheckpointError: It is missing (T0701), damaged (T0702) or of a newer format (T0703).
    """
    read_manifest(path).check(path, _RECORD)
    try:
        return json.loads((path / _RECORD).read_bytes())
    except ValueError as error:
        raise damaged(path, str(error)) from error


def read_checkpoint(path: Path, *, with_training: bool = False) -> Checkpoint:
    """Read the checkpoint at ``path``, comparing every file that is read with its checksum.

    Args:
        path: Its directory.
        with_training: Whether to read also what only resuming needs.

    Raises:
        CheckpointError: It is missing (T0701), damaged (T0702) or of a newer format (T0703).
    """
    manifest = read_manifest(path)
    artifacts = [name for name in manifest.files if name.startswith(f"{_ARTIFACTS}/")]
    for name in (_RECORD, *artifacts):
        manifest.check(path, name)
    try:
        return Checkpoint(
            path=path,
            tensors=_read_model(path, manifest),
            record=json.loads((path / _RECORD).read_bytes()),
            artifacts={
                name.removeprefix(f"{_ARTIFACTS}/"): (path / name).read_bytes()
                for name in artifacts
            },
            training=_read_training(path, manifest) if with_training else None,
        )
    except (
        SafetensorError,
        pickle.UnpicklingError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise damaged(path, str(error).partition("\n")[0]) from error


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint of the highest step in ``run_dir``, or None where there is none."""
    return max(_list_steps(run_dir), key=step_of, default=None)


def is_checkpoint(path: Path) -> bool:
    """Return whether there is a checkpoint itself at ``path``, rather than a run that has some."""
    return (path / NAME).exists()


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints in ``run_dir``, in the order of their steps."""
    return sorted(_list_steps(run_dir), key=step_of)


def keep_only(run_dir: Path, steps: Collection[int]) -> None:
    """Remove all checkpoints of ``run_dir`` but those of ``steps``, and what killed runs left."""
    sweep(run_dir)
    for path in list_checkpoints(run_dir):
        if step_of(path) in steps:
            continue
        # Renamed first: a process killed while it removes leaves no half checkpoint.
        temporary = temporary_path(path)
        path.rename(temporary)
        shutil.rmtree(temporary)


def is_step(name: str) -> bool:
    """Return whether ``name`` is that of a checkpoint in the directory of a run."""
    return _STEP.fullmatch(name) is not None


def step_of(path: Path) -> int:
    """Return the step of the checkpoint at ``path``."""
    return int(path.name.removeprefix("step-"))


def refuse_existing(path: Path) -> None:
    """Raise if there is something at ``path``.

    Raises:
        CheckpointError: There is (T0705).
    """
    if path.exists():
        help_ = "write to another place, or remove it first"
        raise CheckpointError.of("T0705", f"{path} exists already", help_)


def encode_files(record: Mapping[str, Any], artifacts: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the contents of record and artifacts by the names of their files.

    Raises:
        CheckpointError: An artifact's name cannot be kept (T0706).
    """
    for name in artifacts:
        if not _ARTIFACT.fullmatch(name):
            message = f'an artifact cannot be named "{name}" in a checkpoint'
            help_ = "use letters, digits, dots, dashes and underscores"
            raise CheckpointError.of("T0706", message, help_)
    contents = {f"{_ARTIFACTS}/{name}": content for name, content in artifacts.items()}
    return {_RECORD: encode_json(record), **contents}


def _read_model(path: Path, manifest: Manifest) -> dict[str, torch.Tensor]:
    if manifest.format > FORMAT:
        return read_parts(path, manifest, "model")
    manifest.check(path, _MODEL)
    return load_file(path / _MODEL)


def _read_training(path: Path, manifest: Manifest) -> Any:
    if manifest.format > FORMAT:
        manifest.check(path, PLAIN)
        plain = json.loads((path / PLAIN).read_bytes())["training"]
        return join_nested(plain, read_parts(path, manifest, "training"))
    if _TRAINING not in manifest.files:
        return None
    manifest.check(path, _TRAINING)
    return torch.load(path / _TRAINING, map_location="cpu", weights_only=True)


def _list_steps(run_dir: Path) -> list[Path]:
    return [path for path in run_dir.glob("step-*") if is_step(path.name)]


__all__ = [
    "FORMAT",
    "Checkpoint",
    "checkpoint_path",
    "encode_files",
    "is_step",
    "keep_only",
    "latest_checkpoint",
    "list_checkpoints",
    "read_checkpoint",
    "read_record",
    "refuse_existing",
    "step_of",
    "write_checkpoint",
]
