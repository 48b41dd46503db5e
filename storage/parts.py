"""Parts: the tensors of a checkpoint, in one file per group and process.

``index.json`` says of every tensor its type, its size and where its pieces are: in which file, under which
name, and where they begin in the tensor. A tensor that lies spread over processes has several pieces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

from .manifest import Manifest, damaged

INDEX: Final = "index.json"


def read_parts(root: Path, manifest: Manifest, group: str) -> dict[str, Tensor]:
    """Return the tensors of ``group`` in the checkpoint at ``root``, whole and on the CPU.

    Every file that is read is compared with its digest.

    Raises:
        CheckpointError: Some file is damaged, or the index does not fit the files (T0702).
    """
    manifest.check(root, INDEX)
    index: Mapping[str, Any] = json.loads((root / INDEX).read_bytes()).get(group, {})
    names = {file for each in index.values() for file, _, _ in each["pieces"]}
    for name in sorted(names):
        manifest.check(root, name)
    with ExitStack() as stack:
        files: dict[str, Any] = {
            name: stack.enter_context(safe_open(root / name, framework="pt")) for name in names
        }
        return {name: _assemble(root, name, each, files) for name, each in index.items()}


def _assemble(
    root: Path, name: str, described: Mapping[str, Any], files: Mapping[str, Any]
) -> Tensor:
    size, pieces = described["size"], described["pieces"]
    found = [(files[file].get_tensor(key), offsets) for file, key, offsets in pieces]
    if len(found) == 1 and list(found[0][0].shape) == size:
        return found[0][0]
    whole = torch.empty(size, dtype=getattr(torch, described["dtype"]))
    for piece, offsets in found:
        target = whole
        for axis, (offset, length) in enumerate(zip(offsets, piece.shape, strict=True)):
            target = target.narrow(axis, offset, length)
        target.copy_(piece)
    if sum(piece.numel() for piece, _ in found) != whole.numel():
        raise damaged(root / INDEX, f"the pieces of {name} are not all there")
    return whole
