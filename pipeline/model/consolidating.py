"""Consolidating: a checkpoint as one directory that holds the model and nothing of the run that made it."""

from __future__ import annotations

from pathlib import Path

from ...ops.device.lora import fold_pairs
from ...storage.checkpoint import latest_checkpoint, read_checkpoint, write_checkpoint
from ...storage.files import local_path


def consolidate(path: str | Path, out: str | Path) -> Path:
    """Write the model of a run, or of one of its checkpoints, to a directory of its own.

    All parameters are in one file, ``model.safetensors``, however many processes wrote the checkpoint. Low-rank
    pairs are folded into the weights they are beside: who is handed the model need not know of them. What only
    resuming needs stays behind, about two thirds of all bytes.

    Args:
        path: A run, whose last checkpoint is taken, or a checkpoint.
        out: Directory to become.

    Returns:
        The checkpoint that was taken.

    Raises:
        CheckpointError: There is no whole checkpoint (T0701, T0702), something is at ``out`` already (T0705),
            or the disk refuses (T0704).
        StoreError: One of both is a URL.
    """
    path = local_path(path)
    saved = read_checkpoint(latest_checkpoint(path) or path)
    write_checkpoint(
        local_path(out),
        tensors=fold_pairs(saved.tensors),
        record=saved.record,
        artifacts=saved.artifacts,
    )
    return saved.path
