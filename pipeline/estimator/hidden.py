"""What ops of ours hold that a trace without numbers does not see.

On a GPU that is the scores of the loss, a chunk at a time. On the host it is more: which back end computes
attention is chosen there by what ranges say, and each has arrays of its own (`taskloom.ops.device.attention`).

Shape letters: H = heads, D = head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ...ops.device.attention import AttentionSpec, plan_attention
from ...ops.device.attention.blocks import Blocks
from ...ops.device.attention.chunks import Chunk
from ...ops.device.attention.plan import KeyTiles
from ...ops.device.attention.stages import Gathered
from ...ops.device.cross_entropy import SCORES_AT_ONCE
from ...ops.device.slope import LINE
from ...storage.pack import Pack
from ..model.pack_units import LABEL, count_used
from ..model.work import PackWork
from ..planner.planning import Plan

SINGLE: Final = 4
"""Bytes of a number in single precision."""
_INDEX: Final = 8
"""Bytes of a number that says where something is."""


class Attended(NamedTuple):
    """What one call of attention holds, in bytes.

    Attributes:
        saved: From the way there to the way back, beside what the op of a GPU saves.
        within: While the gradient is computed.
        planned: For all layers, until the first has its gradients: told with the first call alone.
    """

    saved: int = 0
    within: int = 0
    planned: int = 0


class Hidden:
    """What ops hold on a GPU."""

    def attended(self, node: str, args: tuple[Any, ...]) -> Attended:  # noqa: ARG002
        """Return what a call of attention in ``node`` holds; its kernels hold next to nothing."""
        return Attended()

    def scores(self, hidden_NC: Tensor, weight_VC: Tensor) -> int:
        """Return what the loss holds: scores of a chunk, and the table's gradient while it is added up."""
        num_rows, num_ids = len(hidden_NC), len(weight_VC)
        size, table = hidden_NC.itemsize, weight_VC.numel()
        rows = min(num_rows, max(1, SCORES_AT_ONCE["cuda"] // num_ids))
        filled = -(-num_ids // LINE) * LINE
        is_summed = num_rows > rows and size < SINGLE
        # The vectors are filled up for fast products; sums of several chunks are taken in single precision.
        copies = table * size * (filled > num_ids) + table * (SINGLE + size) * is_summed
        return rows * filled * size + copies


@dataclass(slots=True, eq=False)
class HiddenOnHost:
    """What they hold on the host, where the calls of attention of every layer are those in ``work``.

    Attributes:
        plan: The plan.
        packs: Packs of one shape, whose ranges decide; what counts is the one that holds most.
        work: What each of them has to compute.
    """

    plan: Plan
    packs: Sequence[Pack]
    work: PackWork
    _units: dict[str, Iterator[str]] = field(init=False)
    _most: dict[tuple[str, str], Attended] = field(default_factory=dict[tuple[str, str], Attended])

    def __post_init__(self) -> None:
        units: dict[str, dict[str, None]] = {}
        for part in self.work.parts:
            if part.is_attention and not part.is_backward:
                units.setdefault(part.node, {})[part.unit] = None
        # All layers of a node see the same streams, in the same order.
        self._units = {node: cycle(theirs) for node, theirs in units.items()}

    def attended(self, node: str, args: tuple[Any, ...]) -> Attended:
        """Return what the next call of attention in ``node`` holds, given its arguments."""
        unit = next(self._units[node])
        if (node, unit) in self._most:
            return self._most[node, unit]._replace(planned=0)
        each = [self._attended_in(pack, node, unit, args) for pack in self.packs]
        # What is saved is so in every layer.
        self._most[node, unit] = max(each)
        return self._most[node, unit]

    def _attended_in(self, pack: Pack, node: str, unit: str, args: tuple[Any, ...]) -> Attended:
        """Return what the first such call holds for one of the packs."""
        _, q_NHD, k_MHD, v_MHD, table_HR, *_ = args
        name = unit.removesuffix(" keys")
        ranges = (getattr(pack, f"{name}_{end}") for end in ("lo", "hi"))
        lo_N, hi_N = (torch.from_numpy(array) for array in ranges)
        params: Any = self.plan.graph[node].params
        spec = _spec_of(name, params, is_relative=table_HR is not None)
        plan = plan_attention(lo_N, hi_N, len(k_MHD), spec)
        if plan.blocks is not None:
            streams = (q_NHD, k_MHD, v_MHD)
            return _in_blocks(plan.blocks, streams, is_relative=spec.is_relative)
        if plan.key_tiles is not None:
            return _beside_tiles(plan.key_tiles, q_NHD, k_MHD, v_MHD)
        return _in_windows(plan.spec, q_NHD, k_MHD, v_MHD)

    def scores(self, hidden_NC: Tensor, weight_VC: Tensor) -> int:
        """Return what the loss holds: scores of a chunk of labels and the logs of their shares, in single."""
        num_labels = max(count_used(pack)[LABEL] for pack in self.packs)
        num_ids = len(weight_VC)
        rows = min(num_labels, max(1, SCORES_AT_ONCE["cpu"] // num_ids))
        # Sums over several chunks are single, too.
        is_summed = num_labels > rows and _is_half(hidden_NC)
        sums = weight_VC.numel() * (SINGLE - weight_VC.itemsize) * is_summed
        return rows * num_ids * 2 * SINGLE + sums


def _spec_of(name: str, params: Any, *, is_relative: bool) -> AttentionSpec:
    """Return the spec that a stack's op gives its attention to the stream ``name``."""
    tile = params.get("tile", 64)
    if name == "cross":
        return AttentionSpec(tile=tile, window=params.get("cross_window", 0))
    longest = params.get("longest", 0)
    return AttentionSpec.within_documents(longest, tile=tile, is_relative=is_relative)


def _in_windows(spec: AttentionSpec, q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor) -> Attended:
    """Return what attention in windows holds."""
    num_queries, is_copied = len(q_NHD), not spec.is_diagonal
    num_rows = -(-num_queries // spec.tile) * spec.window if is_copied else len(k_MHD)
    num_read = q_NHD.numel() + num_rows * (k_MHD[0].numel() + v_MHD[0].numel())
    # What comes out is held before and after queries that see nothing are put to 0.
    saved = SINGLE * num_queries * v_MHD[0].numel()
    if _is_half(q_NHD):
        # It reads copies in single precision, and nobody holds what they are copied from.
        saved += SINGLE * num_read - _count_held(q_NHD, k_MHD, v_MHD)
    elif is_copied:
        # So are windows of keys and values.
        saved += SINGLE * (num_read - q_NHD.numel()) - _count_held(v_MHD)
    within = _count_gradients(q_NHD, k_MHD, v_MHD, num_read)
    return Attended(saved, within, planned=num_queries * spec.window * SINGLE)


def _beside_tiles(tiles: KeyTiles, q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor) -> Attended:
    """Return what attention of queries beside tiles of keys holds."""
    num_tiles, _, num_places, size = tiles.bias.shape
    num_heads, head_size = q_NHD.shape[1:]
    num_queries, num_keys = num_tiles * num_places, num_tiles * size
    is_moved, is_filled = tiles.query_X is not None, v_MHD.shape[2] < head_size
    of_heads = num_heads * head_size
    num_read = (num_queries + 2 * num_keys) * of_heads
    # What comes out, and the log of each sum of exponentials.
    saved = SINGLE * num_queries * (of_heads + num_heads)
    if _is_half(q_NHD):
        saved += SINGLE * num_read - _count_held(q_NHD, k_MHD, v_MHD)
    else:
        saved += (SINGLE * num_queries * of_heads - _count_held(q_NHD)) * is_moved
        saved += (SINGLE * num_keys * of_heads - _count_held(v_MHD)) * is_filled
    within = _count_gradients(q_NHD, k_MHD, v_MHD, num_read)
    planned = tiles.bias.nbytes + _INDEX * (num_queries + len(q_NHD)) * is_moved
    return Attended(saved, within, planned)


def _in_blocks(blocks: Blocks, streams: Sequence[Tensor], *, is_relative: bool) -> Attended:
    """Return what attention in blocks of queries, keys and values holds."""
    num_heads, qk_size = streams[0].shape[1:]
    v_size = streams[2].shape[2]
    scores = [chunk.size for chunk in blocks.chunks]
    stages = blocks.stages(num_heads)
    copied = [stage for stage in stages if isinstance(stage, Gathered)]
    # Queries, and keys and values, of each stage that are copied to be read.
    copies = [
        SINGLE * (len(stage.query_X) * qk_size + len(stage.key_Y) * (qk_size + v_size))
        for stage in copied
    ]
    saved, planned = 0, _INDEX * sum(2 * len(stage.query_X) + len(stage.key_Y) for stage in copied)
    if blocks.keeps:
        planned += sum(_count_planned(chunk, is_relative=is_relative) for chunk in blocks.chunks)
        saved += sum(copies) + SINGLE * num_heads * sum(scores)
    if blocks.keeps and len(copied) == len(stages):
        # They take the place of what they are copied from, which nobody else holds.
        saved -= _count_held(*streams)
    elif blocks.keeps:
        # So do streams that are made contiguous, or single.
        parts = [x for x in streams if _is_half(x) or not x.is_contiguous()]
        saved += SINGLE * sum(x.numel() for x in parts) - _count_held(*parts)
    # Of a stage: what is copied and its gradient. Of a chunk: weights, what they gain, and scores.
    of_stage = (1 if blocks.keeps else 2) * max(copies, default=0)
    of_stage += SINGLE * v_size * max((len(stage.query_X) for stage in copied), default=0)
    of_score = 2 * num_heads * SINGLE
    if not blocks.keeps:
        of_score += num_heads * SINGLE + (_INDEX if is_relative else SINGLE)
    q_NHD, k_MHD, v_MHD = streams
    num_read = sum(x.numel() for x in streams)
    of_call = _count_gradients(q_NHD, k_MHD, v_MHD, num_read)
    if _is_half(q_NHD) and not blocks.keeps:
        of_call += SINGLE * num_read
    return Attended(saved, of_call + of_stage + of_score * max(scores, default=0), planned)


def _count_gradients(q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, num_read: int) -> int:
    """Return by how much gradients of what is read, in single precision, exceed those of the streams."""
    exceeding = SINGLE * num_read - sum(x.nbytes for x in (q_NHD, k_MHD, v_MHD))
    # What comes back is cast, too.
    return exceeding + SINGLE * len(q_NHD) * v_MHD[0].numel() * _is_half(q_NHD)


def _count_held(*streams: Tensor) -> int:
    """Return the bytes of what ``streams`` lie in; some lie in one."""
    return sum({id(s): s.nbytes() for s in (x.untyped_storage() for x in streams)}.values())


def _is_half(stream: Tensor) -> bool:
    return stream.itemsize < SINGLE


def _count_planned(chunk: Chunk, *, is_relative: bool) -> int:
    """Return the bytes of what is kept of each score of a chunk, for all layers."""
    if is_relative and not chunk.is_alone:
        return _INDEX * chunk.size
    # Rows of a block that is alone mostly run on along its diagonals.
    return SINGLE * chunk.size if chunk.hides else 0
