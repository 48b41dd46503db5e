"""The sizes of a model, read from its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor

from ....graph.errors import CheckpointError
from ..config import ModelConfig
from .names import VOCABULARY
from .resnet import RESNETS
from .settings import Settings
from .vit import VITS

_HEAD_SIZE: Final = 64
_UP: Final = "encoder.layers.0.ffn.up.weight"
_POSITIONS: Final = "source_tokens.positions.text.weight"
_NEEDED: Final = (_UP, _POSITIONS, VOCABULARY)


def infer_config(tensors: Mapping[str, Tensor], settings: Settings) -> ModelConfig:
    """Return the sizes of the model whose ``tensors`` are named as ours.

    Args:
        tensors: By name.
        settings: What they do not tell.

    Raises:
        CheckpointError: Tensors are missing that every model has, or settings contradict them (T0741).
    """
    for name in _NEEDED:
        if name not in tensors or tensors[name].dim() != 2:
            message = f"the file holds no model of the OFA family: {name} is missing, or no matrix"
            raise CheckpointError.of("T0741", message)
    ffn_width, width = tensors[_UP].shape
    has_bias = "encoder.positions.query.weight" in tensors
    has_biases = has_bias if settings.has_biases is None else settings.has_biases
    if has_bias and (not has_biases or settings.is_entangled or settings.no_bias == "added"):
        message = "positions are to be biases of attention, which is to have none"
        if has_biases:
            message = "positions are to be biases of attention, and to be entangled"
        help_ = "a model without use_self_attn_bias has entangle_position_embedding, and no pos_q_linear"
        raise CheckpointError.of("T0741", message, help_)
    is_pre_norm = "encoder.norm.weight" in tensors
    if settings.is_pre_norm not in (is_pre_norm, None):
        message = f"normalize_before is {settings.is_pre_norm}, and encoder.layer_norm "
        message += "is there" if is_pre_norm else "is missing"
        raise CheckpointError.of("T0741", message, "give the whole file, as training wrote it")
    return ModelConfig(
        position="relative",
        width=width,
        ffn_width=ffn_width,
        num_heads=_find_heads(tensors, width, settings.num_heads),
        num_encoder_layers=_count(tensors, r"encoder\.layers\.(\d+)\..+"),
        num_decoder_layers=_count(tensors, r"decoder\.layers\.(\d+)\..+"),
        pre_norm=is_pre_norm,
        attn_scale_factor=settings.attn_scale_factor,
        scale_attn="encoder.layers.0.attention_sum.scale.weight" in tensors,
        scale_fc="encoder.layers.0.ffn.norm.weight" in tensors,
        scale_heads="encoder.layers.0.attention.gain_H" in tensors,
        scale_resids="encoder.layers.0.ffn_sum.factor_C" in tensors,
        absolute_position="bias" if has_bias else settings.no_bias or "added",
        relative_bias=has_biases,
        share_relative_bias=_is_shared(tensors),
        max_positions=len(tensors[_POSITIONS]) - 2,
        trunk=_find_trunk(tensors),
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = [int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1


def _find_heads(tensors: Mapping[str, Tensor], width: int, told: int | None) -> int:
    gain = tensors.get("encoder.layers.0.attention.gain_H")
    table = tensors.get("encoder.relative.tables.text")
    if gain is not None and gain.dim() == 1:
        return len(gain)
    if table is not None:
        return table.shape[-1]
    return told or width // _HEAD_SIZE


def _is_shared(tensors: Mapping[str, Tensor]) -> bool:
    table = tensors.get("encoder.relative.tables.text")
    num_layers = _count(tensors, r"encoder\.layers\.(\d+)\..+")
    return table is not None and len(table) == 1 < num_layers


def _find_trunk(tensors: Mapping[str, Tensor]) -> str:
    """Return the trunk that has as many blocks; empty where it is none that is known."""
    stages = tuple(_count(tensors, rf"image\.trunk\.layer{n}\.(\d+)\..+") for n in (1, 2, 3))
    for name, blocks in RESNETS.items():
        if stages == blocks:
            return name
    layers = _count(tensors, r"vit\.trunk\.layers\.(\d+)\..+")
    positions = tensors.get("vit.trunk.positions_PC")
    for name, shape in VITS.items():
        side = shape.resolution // shape.patch
        if positions is not None and positions.shape == (side**2 + 1, shape.width) and layers:
            return name
    return ""
