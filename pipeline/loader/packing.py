"""Between stored documents and a program: how large packs are, and what a program is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.device.config import ModelConfig
from ...storage.blend import Blend
from ...storage.capacity import Capacity
from ...storage.loader import to_torch
from ...storage.pack import Pack
from ...storage.propose import Cost, propose_capacity
from ...storage.template import Documents
from ..mixing import Size, blend_tasks
from ..planner.planning import Plan
from ..settings import TrainConfig
from ..task import Mixture

TILES = (64, 128, 256)
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
        tiles=[tile for tile in TILES if config.source_tokens % tile == 0],
        cost=Cost(
            source=model.num_encoder_layers * (4 * width**2 + feed_forward),
            target=model.num_decoder_layers * (6 * width**2 + feed_forward),
            source_key=model.num_encoder_layers * 2 * width,
            target_key=model.num_decoder_layers * 2 * width,
        ),
    )
    target = config.target_tokens or capacity.target
    return replace(capacity, target=target, max_source=longest)


def blend_documents(mixture: Mixture, documents: Sequence[Documents], config: TrainConfig) -> Blend:
    """Return the shares of the tasks of ``mixture``, of whose templates ``documents`` are.

    Documents longer than ``config.max_document`` count for nothing.
    """
    longest = min(config.max_document, config.source_tokens)
    lengths: dict[str, list[tuple[int, float, float]]] = {}
    for each in documents:
        keep = each.longest_source <= longest
        kept = each.select(keep) if keep.any() else each
        means = float(kept.source_lengths.mean()), float(kept.target_lengths.mean())
        lengths.setdefault(each.template.task, []).append((len(kept), *means))
    means = {task: np.mean(each, axis=0).tolist() for task, each in lengths.items()}
    sizes = {task: Size(rows, max(s + t, 1.0)) for task, (rows, s, t) in means.items()}
    rows, source, target = (np.array(column) for column in zip(*means.values(), strict=True))
    source, target = float(rows @ source), float(rows @ target)
    per_pack = config.source_tokens * (source + target) / max(source, target, 1.0)
    return blend_tasks(mixture, sizes, config.steps * config.packs_per_step * per_pack)


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
    return {name: move(tensor, device) for name, tensor in arrays.items()}


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``; from pinned memory a GPU copies it while the host goes on."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
