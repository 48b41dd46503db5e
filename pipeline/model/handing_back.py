"""Models of ours handed back to OFASys: a state under its names, with its settings and its dictionary.

What was imported comes back bit for bit, with what no part of a model here reads. What a run has learned comes
back as far as OFASys has names for it: a whole scope that it has none for is left out and told, but a part of a
layer is refused, since without it the layer would compute something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from ...graph.errors import CheckpointError
from ...graph.vocabulary import write_symbols
from ...ops.device.config import ModelConfig
from ...ops.device.lora import fold_pairs
from ...ops.device.relative.names import VOCABULARY, to_ofasys
from ...ops.device.relative.settings import describe
from ...ops.device.relative.unscaled import leave_out_scales
from ...storage.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint, refuse_existing
from ...storage.files import local_path, make_directory, replacing, reporting
from .importing import IN_LAYER, KEPT_TENSORS, SCOPES, SYMBOLS, find_places, name_some

_ADAPTOR: Final = re.compile(r"(?:encoder|decoder)\.adaptor\.(?!embed_tokens|pos_)(\w+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        has_symbols: Whether it is known what the rows of the vocabulary stand for.
        num_tensors: Tensors in the state.
        num_ids: Rows of the vocabulary.
        left_out: Names of parameters that OFASys has no names for.
    """

    path: Path
    has_symbols: bool
    num_tensors: int
    num_ids: int
    left_out: tuple[str, ...]


def export_checkpoint(path: Path, out: Path) -> Exported:
    """Write the model at ``path`` as OFASys has it, to a file that `import_checkpoint` reads.

    In it are tensors by name under ``model``, settings that they do not tell under ``cfg``, and rows of the
    vocabulary by symbol under ``global_dict_indices``, where they are known.

    Args:
        path: A run, whose last checkpoint is taken, a checkpoint, or one that was imported.
        out: File to become.

    Raises:
        CheckpointError: There is no checkpoint, OFASys has no name for a part of its layers (T0745), or
            something is there already (T0705).
        StoreError: ``out`` is a URL, or the disk refuses.
    """
    out = local_path(out)
    checkpoint = read_checkpoint(latest_checkpoint(path) or path)
    state, left_out = find_state(checkpoint)
    symbols = _find_symbols(checkpoint)
    model = ModelConfig(**checkpoint.record.get("model", {}))
    content: dict[str, Any] = {
        "model": state,
        "cfg": {"model": describe(model, _find_adaptors(state))},
    }
    if symbols:
        content["global_dict_indices"] = {symbol: row for row, symbol in enumerate(symbols)}
    refuse_existing(out)
    make_directory(out.parent)
    # As a stream: torch would name what is in the file after the temporary name.
    with replacing(out) as temporary, reporting(out), temporary.open("wb") as file:
        torch.save(content, file)
    return Exported(
        path=out,
        has_symbols=bool(symbols),
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


def _find_adaptors(state: Iterable[str]) -> list[str]:
    """Return the adapters that tensors of these names are parts of."""
    return sorted({match[1] for name in state if (match := _ADAPTOR.match(name)) is not None})


def _find_symbols(checkpoint: Checkpoint) -> list[str]:
    """Return the symbol of every row, or nothing where they are not known."""
    if SYMBOLS in checkpoint.artifacts:
        return checkpoint.artifacts[SYMBOLS].decode().split("\n")
    return write_symbols(find_places(checkpoint))
