"""Between stored documents and a program: how large packs are, and what a program is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ops.device.config import ModelConfig
from ..storage.capacity import Capacity
from ..storage.loader import to_torch
from ..storage.pack import Pack
from ..storage.propose import propose_capacity
from ..storage.template import Documents
from .planning import Plan
from .settings import TrainConfig

TILES = (64, 128)
"""Tiles that packs may be aligned to."""


def choose_capacity(
    documents: Sequence[Documents],
    weights: Mapping[str, float],
    model: ModelConfig,
    config: TrainConfig,
) -> Capacity:
    """Return the shape of packs that wastes the least of what a step computes.

    Documents longer than ``config.max_document`` are no part of any pack.
    """
    longest = min(config.max_document, config.source_tokens)
    width, feed_forward = model.width, 2 * model.width * model.ffn_width
    capacity = propose_capacity(
        documents,
        config.source_tokens,
        weights=weights,
        max_source=longest,
        tiles=TILES,
        source_flops=model.num_encoder_layers * (4 * width**2 + feed_forward),
        target_flops=model.num_decoder_layers * (6 * width**2 + feed_forward),
    )
    target = config.target_tokens or capacity.target
    return replace(capacity, target=target, max_source=longest)


def to_inputs(plan: Plan, pack: Pack, device: torch.device) -> dict[str, Tensor]:
    """Return ``pack`` by the ports of its node in ``plan``, on ``device``; lanes it lacks are empty."""
    arrays = to_torch(pack)
    for stream in ("source", "target", "cross"):
        ends = (arrays.pop(f"{stream}_lo"), arrays.pop(f"{stream}_hi"))
        arrays[f"{stream}_keys"] = torch.stack(ends)
    lanes: Any = plan.graph["pack"].params["lanes"]
    for name, lane in lanes.items():
        if name not in arrays:
            arrays[name] = torch.empty(0, *lane["shape"], dtype=getattr(torch, lane["dtype"]))
            arrays[f"{name}_places"] = torch.empty(0, lane["length"], dtype=torch.int32)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in arrays.items()}
