"""Models of ours handed back to OFASys: a state under its names, and the dictionary beside it.

What was imported comes back bit for bit, with what no part of a model here reads. What a run has learned comes
back as far as OFASys has names for it: a whole scope that it has none for is left out and told, but a part of a
layer is refused, since without it the layer would compute something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from ...graph.errors import CheckpointError
from ...graph.vocabulary import write_symbols
from ...ops.device.lora import fold_pairs
from ...ops.device.relative.names import VOCABULARY, to_ofasys
from ...ops.device.relative.unscaled import leave_out_scales
from ...storage.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint, refuse_existing
from ...storage.files import make_directory, publish, reporting, temporary_path, write_atomic
from .importing import IN_LAYER, KEPT_TENSORS, SCOPES, SYMBOLS, find_places, name_some


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: The state: tensors by name, and nothing else.
        symbols: The dictionary, a symbol a line; None where it is not known.
        num_tensors: Tensors in the state.
        num_ids: Rows of the vocabulary.
        left_out: Names of parameters that OFASys has no names for.
    """

    path: Path
    symbols: Path | None
    num_tensors: int
    num_ids: int
    left_out: tuple[str, ...]


def export_checkpoint(path: Path, out: Path) -> Exported:
    """Write the model at ``path`` as OFASys has it: a state to ``out``, a dictionary beside it.

    The dictionary's name is that of ``out`` with ``.symbols.txt`` in place of what follows the last dot. Both
    are what `import_checkpoint` reads.

    Args:
        path: A run, whose last checkpoint is taken, a checkpoint, or one that was imported.
        out: File to become.

    Raises:
        CheckpointError: There is no checkpoint, OFASys has no name for a part of its layers (T0745), or
            something is there already (T0705).
        StoreError: The disk refuses.
    """
    checkpoint = read_checkpoint(latest_checkpoint(path) or path)
    state, left_out = find_state(checkpoint)
    symbols = _find_symbols(checkpoint)
    beside = out.with_suffix(".symbols.txt")
    for each in (out, beside):
        refuse_existing(each)
    make_directory(out.parent)
    if symbols:
        write_atomic(beside, "".join(f"{symbol}\n" for symbol in symbols).encode())
    temporary = temporary_path(out)
    with reporting(out):
        torch.save(state, temporary)
    publish(temporary, out)
    return Exported(
        path=out,
        symbols=beside if symbols else None,
        num_tensors=len(state),
        num_ids=len(state["encoder.adaptor.embed_tokens.weight"]),
        left_out=left_out,
    )


def find_state(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of ``checkpoint`` under names of OFASys, and names of those that it has none for.

    Raises:
        CheckpointError: A part of a layer is among these, or there is no vocabulary, or OFASys has no such
            biases (T0745).
    """
    whole = fold_pairs(checkpoint.tensors)
    converted = to_ofasys({name.removeprefix(SCOPES): tensor for name, tensor in whole.items()})
    parts = [name for name in converted.kept if IN_LAYER.fullmatch(name)]
    if parts or SCOPES + VOCABULARY not in whole:
        named = name_some(parts or [*converted.kept])
        help_ = "hand back a model with `position: relative`, and with weights that all modalities share"
        raise CheckpointError.of("T0745", f"OFASys has no name for {named}", help_)
    state = converted.tensors
    model: Mapping[str, Any] = checkpoint.record.get("model", {})
    if not model.get("relative_bias", True):
        if model["absolute_position"] == "bias":
            help_ = "hand back a model with relative_bias, or with absolute_position added or none"
            message = (
                "OFASys has no model whose positions are biases and which has no relative ones"
            )
            raise CheckpointError.of("T0745", message, help_)
        state |= leave_out_scales(state, model["attn_scale_factor"])
    # What an import changed is among what it kept.
    if KEPT_TENSORS in checkpoint.artifacts:
        state |= load_tensors(checkpoint.artifacts[KEPT_TENSORS])
    return state, converted.kept


def _find_symbols(checkpoint: Checkpoint) -> list[str]:
    """Return the symbol of every row, or nothing where they are not known."""
    if SYMBOLS in checkpoint.artifacts:
        return checkpoint.artifacts[SYMBOLS].decode().split("\n")
    return write_symbols(find_places(checkpoint))
