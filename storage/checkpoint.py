"""Checkpoints: directories that are whole or absent.

    step-00000100/
      manifest.json       format version, and size and checksum of every other file
      model.safetensors   tensors by name
      training.pt         what only resuming needs: optimizer, generators, data position
      record.json         instructions, graph, op versions, vocabulary: what the tensors mean
      artifacts/<name>    fitted things, byte for byte

A checkpoint is written under a temporary name beside its own, flushed to the disk, and renamed. So
a process killed at any moment leaves the checkpoints before it, and at most a temporary directory,
which `keep_last` clears away. Nothing in it is code: no file is unpickled into objects.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..graph.errors import CheckpointError
from .files import digest_file, encode_json, sweep, sync, temporary_path

FORMAT: Final = 1

_MANIFEST = "manifest.json"
_MODEL = "model.safetensors"
_TRAINING = "training.pt"
_RECORD = "record.json"
_ARTIFACTS = "artifacts"
_STEP = re.compile(r"step-(\d+)")
_NAME = re.compile(r"\w[\w.-]*")
_PLAIN = (bool, int, float, str, torch.Tensor, torch.nn.Parameter)


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
    training: Any = None,
) -> None:
    """Write a checkpoint to ``path``, which does not exist yet.

    Args:
        path: Directory to become.
        tensors: Tensors by name; no two share memory.
        record: Data that JSON can hold.
        artifacts: Contents by name.
        training: Nested dicts, lists and tuples of tensors, numbers, texts, booleans and None.

    Raises:
        CheckpointError: Something is there already (T0705), an artifact's name or a part of
            ``training`` cannot be kept (T0706), or the disk refuses (T0704).
    """
    if path.exists():
        help_ = "write to another place, or remove it first"
        raise CheckpointError.of("T0705", f"{path} exists already", help_)
    _check_names(artifacts)
    _check_plain(training, "training")
    temporary = temporary_path(path)
    try:
        (temporary / _ARTIFACTS).mkdir(parents=True)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, temporary / _MODEL)
        if training is not None:
            torch.save(training, temporary / _TRAINING)
        (temporary / _RECORD).write_bytes(encode_json(record))
        for name, content in artifacts.items():
            (temporary / _ARTIFACTS / name).write_bytes(content)
        (temporary / _MANIFEST).write_bytes(encode_json(_describe_files(temporary)))
        _flush(temporary)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        message = f"cannot write checkpoint {path}: {error.strerror or error}"
        help_ = "make room or choose another place; earlier checkpoints are whole"
        raise CheckpointError.of("T0704", message, help_) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of the checkpoint at ``path``, having read nothing else of it.

    Raises:
        CheckpointError: It is missing (T0701), damaged (T0702) or of a newer format (T0703).
    """
    files = _read_manifest(path)
    if _RECORD not in files:
        raise _damaged(path, f"its manifest does not name {_RECORD}")
    _check_file(path / _RECORD, files[_RECORD])
    try:
        return json.loads((path / _RECORD).read_bytes())
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def read_checkpoint(path: Path, *, with_training: bool = False) -> Checkpoint:
    """Read the checkpoint at ``path``, comparing every file that is read with its checksum.

    Args:
        path: Its directory.
        with_training: Whether to read also what only resuming needs.

    Raises:
        CheckpointError: It is missing (T0701), damaged (T0702) or of a newer format (T0703).
    """
    files = _read_manifest(path)
    wanted = [name for name in files if with_training or name != _TRAINING]
    for name in wanted:
        _check_file(path / name, files[name])
    if missing := {_MODEL, _RECORD} - set(files):
        raise _damaged(path, f"its manifest does not name {', '.join(sorted(missing))}")
    training = None
    try:
        if _TRAINING in wanted:
            training = torch.load(path / _TRAINING, map_location="cpu", weights_only=True)
        return Checkpoint(
            path=path,
            tensors=load_file(path / _MODEL),
            record=json.loads((path / _RECORD).read_bytes()),
            artifacts={
                name.removeprefix(f"{_ARTIFACTS}/"): (path / name).read_bytes()
                for name in files
                if name.startswith(f"{_ARTIFACTS}/")
            },
            training=training,
        )
    except (SafetensorError, pickle.UnpicklingError, ValueError, RuntimeError) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint of the highest step in ``run_dir``, or None where there is none."""
    return max(_list_steps(run_dir), key=_step_of, default=None)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints in ``run_dir``, in the order of their steps."""
    return sorted(_list_steps(run_dir), key=_step_of)


def keep_last(run_dir: Path, number: int) -> None:
    """Remove all but the last ``number`` checkpoints of ``run_dir``, and what killed runs left."""
    sweep(run_dir)
    for path in list_checkpoints(run_dir)[: -number or None]:
        # Renamed first: a process killed while it removes leaves no half checkpoint.
        temporary = temporary_path(path)
        path.rename(temporary)
        shutil.rmtree(temporary)


def _list_steps(run_dir: Path) -> list[Path]:
    return [path for path in run_dir.glob("step-*") if _STEP.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _check_names(artifacts: Mapping[str, bytes]) -> None:
    for name in artifacts:
        if not _NAME.fullmatch(name):
            message = f'an artifact cannot be named "{name}" in a checkpoint'
            help_ = "use letters, digits, dots, dashes and underscores"
            raise CheckpointError.of("T0706", message, help_)


def _check_plain(value: Any, where: str) -> None:
    """Refuse what `torch.load` would not read back without running code."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, item in enumerate(value):
            _check_plain(item, f"{where}[{position}]")
    elif value is not None and type(value) not in _PLAIN:
        message = f"{where} is a {type(value).__name__}, which a checkpoint cannot keep"
        raise CheckpointError.of("T0706", message, "turn it into tensors, numbers and texts")


def _describe_files(root: Path) -> dict[str, Any]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        "format": FORMAT,
        "files": {
            path.relative_to(root).as_posix(): {
                "bytes": path.stat().st_size,
                "xxh3": digest_file(path),
            }
            for path in files
        },
    }


def _flush(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        sync(path)


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        version, files = manifest["format"], manifest["files"]
    except OSError as error:
        message = f"there is no checkpoint at {path}: {error.strerror}"
        help_ = "give the directory that training wrote, such as runs/digits/step-00000300"
        raise CheckpointError.of("T0701", message, help_) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{_MANIFEST} is not understood") from error
    if version > FORMAT:
        message = f"checkpoint {path} has format {version}, this version reads up to {FORMAT}"
        raise CheckpointError.of("T0703", message, "use the version of taskloom that wrote it")
    return files


def _check_file(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != wanted["bytes"]:
            raise _damaged(path, f"it has {size} bytes, {wanted['bytes']} were written")
        if digest_file(path) != wanted["xxh3"]:
            raise _damaged(path, "its checksum is not that of what was written")
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _damaged(path: Path, what: str) -> CheckpointError:
    help_ = "use another checkpoint of the run, or a copy of this one"
    return CheckpointError.of("T0702", f"{path} is damaged: {what}", help_)


__all__ = [
    "FORMAT",
    "Checkpoint",
    "checkpoint_path",
    "keep_last",
    "latest_checkpoint",
    "read_checkpoint",
    "read_record",
    "write_checkpoint",
]
