"""Between stored documents and a program: how large packs are, and what a program is called with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..storage.capacity import Capacity, count_tensors
from ..storage.loader import to_torch
from ..storage.pack import Pack
from ..storage.template import Documents

TILE = 64
_SLACK = 1.08
"""How much wider than the mean the capacities are that should not be the first to fill up."""


def choose_capacity(
    documents: Sequence[Documents],
    weights: Mapping[str, float],
    *,
    source: int,
    target: int = 0,
    max_source: int,
) -> Capacity:
    """Return the shape of packs whose source stream is the first thing to be full.

    Args:
        documents: The documents of each task.
        weights: Share of the samples of each task.
        source: Positions of the source stream.
        target: Positions of the target stream; as many as the documents of a full source need if 0.
        max_source: Longest document in source positions.
    """
    total = sum(weights[each.template.task] for each in documents)
    needs: dict[str, float] = {}
    mean_source = 0.0
    longest = 0
    for each in documents:
        fits = each.source_lengths <= min(max_source, source)
        share = weights[each.template.task] / total
        if not fits.any():
            continue
        mean_source += share * float(each.source_lengths[fits].mean())
        needs["target"] = needs.get("target", 0.0) + share * float(each.target_lengths[fits].mean())
        longest = max(longest, int(np.quantile(each.target_lengths[fits], 0.999)))
        for lane, number in count_tensors(each).items():
            needs[lane] = needs.get(lane, 0.0) + share * number
    per_pack = source / max(mean_source, 1.0) * _SLACK
    positions = max(per_pack * needs.pop("target", 0.0), longest)
    return Capacity(
        source=source,
        target=target or math.ceil(positions / TILE) * TILE,
        tensors={lane: math.ceil(number * per_pack) for lane, number in sorted(needs.items())},
        tile=TILE,
        max_source=max_source,
    )


def to_inputs(pack: Pack, device: torch.device) -> dict[str, Tensor]:
    """Return ``pack`` by the ports of its node, on ``device``."""
    arrays = to_torch(pack)
    for stream in ("source", "target", "cross"):
        ends = (arrays.pop(f"{stream}_lo"), arrays.pop(f"{stream}_hi"))
        arrays[f"{stream}_keys"] = torch.stack(ends)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in arrays.items()}
