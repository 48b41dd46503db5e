"""A capacity that suits the data: how long the shorter stream and the lanes of a pack should be.

The caller chooses the length of the longer stream, which is what a step costs. A shorter stream of
exactly the average need would be full before the longer one is, since no pack is average; a very
roomy one is mostly padding. So candidates are tried on a stretch of the real stream, and the one
that wastes the least computation wins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .capacity import Capacity
from .length import select_fitting
from .position import Position
from .report import StreamReport
from .template import Documents
from .window_planner import WindowPlanner

_ROOM = (1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
_LANE_ROOM = (1.1, 1.25, 1.5)
_TRIED_SAMPLES = 1024
# What may be wasted more for the sake of shorter lanes.
_SLACK = 0.005


class Cost(NamedTuple):
    """What a step computes, in any unit.

    Attributes:
        source: Linear FLOPs of the encoder per source position.
        target: Linear FLOPs of the decoder per target position.
        source_key: FLOPs of the encoder's attention per source position and key.
        target_key: FLOPs of the decoder's attention per target position and key, of source or target.
    """

    source: float = 1.0
    target: float = 1.0
    source_key: float = 0.0
    target_key: float = 0.0

    def waste(self, report: StreamReport) -> float:
        """Return the share of a step that is not linear work on used positions."""
        # Attention reaches over whole tiles: longer ones are filled better, and cost more.
        tile = report.capacity.tile
        longest = (max(task.longest[side] for task in report.tasks) for side in (0, 1))
        source_keys, target_keys = (-(-length // tile) * tile for length in longest)
        source, target = report.capacity.source, report.capacity.target
        keys = source * self.source_key * source_keys
        keys += target * self.target_key * (source_keys + target_keys)
        used = report.fill["source"] * source * self.source
        used += report.fill["target"] * target * self.target
        return 1 - used / (source * self.source + target * self.target + keys)


def propose_capacity(
    measured: Sequence[Documents],
    size: int,
    *,
    weights: Mapping[str, float] | None = None,
    max_source: int | None = None,
    tiles: Sequence[int] = (64,),
    cost: Cost | None = None,
) -> Capacity:
    """Return the capacity of a pack whose longer stream has ``size`` positions.

    Args:
        measured: The documents of each template, all templates of a task over the same rows.
        size: Positions of the longer stream, a multiple of every tile. Longer documents will be
            left out.
        weights: Relative share of samples of each task; by default as many as it has rows.
        max_source: Longest document in source positions; longer ones will be left out, too.
        tiles: Attention tiles to choose from.
        cost: What a step computes; as much for every position if not given.
    """
    cost = cost or Cost()
    longest = size if max_source is None else min(size, max_source)
    documents = _select_short(measured, longest)
    shares = [
        (weights[d.template.task] if weights else float(len(d))) / d.template.num_templates
        for d in documents
    ]

    def waste(capacity: Capacity) -> float:
        seen = [each for each in select_fitting(documents, capacity) if len(each)]
        if not seen:
            return 0.0
        tasks = {each.template.task: float(len(each)) for each in seen}
        theirs = {task: weights[task] if weights else number for task, number in tasks.items()}
        planner = WindowPlanner(seen, capacity, theirs, 0, _TRIED_SAMPLES)
        packs = planner.plan(0, Position.start(len(theirs)), theirs).packs
        report = StreamReport.of(packs, seen, [0] * len(seen), capacity)
        return cost.waste(report)

    candidates = [
        _suit(documents, shares, size, tile, room, 2.0) for tile in tiles for room in _ROOM
    ]
    wasted = [waste(candidate) for candidate in candidates]
    best = int(np.argmin(wasted))
    if candidates[best].tensors:
        for lane_room in _LANE_ROOM:
            room = _ROOM[best % len(_ROOM)]
            tile = candidates[best].tile
            candidate = _suit(documents, shares, size, tile, room, lane_room)
            if waste(candidate) <= wasted[best] + _SLACK:
                return candidate
    return candidates[best]


def _select_short(measured: Sequence[Documents], longest: int) -> Sequence[Documents]:
    """Return the documents of rows that are short enough with every template; all, if none is."""
    fits: dict[str, npt.NDArray[np.bool_]] = {}
    for each in measured:
        task = each.template.task
        fits[task] = fits.get(task, np.True_) & (each.longest_source <= longest)
    kept = [each.select(fits[each.template.task]) for each in measured]
    return [each for each in kept if len(each)] or measured


def _suit(
    documents: Sequence[Documents],
    shares: Sequence[float],
    size: int,
    tile: int,
    room: float,
    lane_room: float,
) -> Capacity:
    """Return a capacity with ``room`` times what the average pack needs."""
    weights = np.array(shares) / sum(shares)
    means = [(each.source_lengths.mean(), each.target_lengths.mean()) for each in documents]
    source, target = weights @ np.array(means)
    longest = [max(int(each.longest_source.max()) for each in documents)]
    longest += [max(int(each.longest_target.max()) for each in documents)]
    is_source_longer = bool(source >= target)
    ratio = min(source, target) / max(source, target)
    need = max(size * ratio * room, longest[1 if is_source_longer else 0], 1)
    shorter = min(size, math.ceil(need / tile) * tile)
    num_samples = size / max(source, target)
    lanes = dict.fromkeys(lane for each in documents for lane in each.tensors)
    means_by_lane = {lane: [_mean(each, lane) for each in documents] for lane in lanes}
    return Capacity(
        source=size if is_source_longer else shorter,
        target=shorter if is_source_longer else size,
        tensors={
            lane: max(
                1,
                math.ceil(lane_room * num_samples * float(weights @ np.array(means))),
                *(int(each.tensors[lane].max()) for each in documents if lane in each.tensors),
            )
            for lane, means in means_by_lane.items()
        },
        tile=tile,
    )


def _mean(documents: Documents, lane: str) -> float:
    return float(documents.tensors[lane].mean()) if lane in documents.tensors else 0.0


__all__ = ["Cost", "propose_capacity"]
