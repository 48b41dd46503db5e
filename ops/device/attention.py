"""Attention in which every query sees one contiguous range of keys.

A *range* ``[lo, hi)`` per query says which keys of a flat stream it may see. Documents, causality,
prefixes and the way from a target to its source are all ranges, so they are data: one program
serves every pack. A query whose range is empty gets exactly zero, and passes no gradient on.

A *tile* is a run of neighbouring queries, a *window* the run of keys that one tile may reach.
Window sizes are static, so a pack must keep them: a query whose range leaves its window gets NaN,
which no loss survives, rather than an answer that ignores some of its keys.

Shape letters: N = queries, M = keys, H = heads, D = head size, T = tiles, Q = queries of a tile,
K = keys of a window, W = tiles of a window.

Why no `flex_attention` on the host: it has no backward pass on CPU (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...graph.errors import PlanError, Problem, suggest


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """What is static about one use of attention; part of the key under which programs are compiled.

    Attributes:
        backend: Key of `BACKENDS`, or ``"auto"``: blockwise where windows save at least half of the
            scores.
        tile: Queries per tile; windows start at multiples of it.
        window: Keys that one tile of queries may reach, a multiple of ``tile``; 0 for all keys.
        is_diagonal: Whether queries and keys are one stream and tile ``i`` sees tile ``i`` alone,
            which needs no gathering. ``window`` is ``tile`` then.
        scale: Factor of the scores; ``None`` for the inverse root of the head size.
    """

    backend: str = "auto"
    tile: int = 64
    window: int = 0
    is_diagonal: bool = False
    scale: float | None = None

    def __post_init__(self) -> None:
        if problems := tuple(_problems(self)):
            raise PlanError(*problems)

    @classmethod
    def within_documents(
        cls, longest: int, *, tile: int = 64, backend: str = "auto"
    ) -> AttentionSpec:
        """Return the spec of self-attention over a stream whose documents are aligned to tiles.

        Args:
            longest: Most tokens of a document; 0 where that is not known.
            tile: Alignment: a document crosses a multiple of ``tile`` only if it starts at one.
            backend: As in the class.
        """
        window = -(-longest // tile) * tile
        return cls(backend=backend, tile=tile, window=window, is_diagonal=window == tile)


class AttentionPlan(NamedTuple):
    """All that ranges decide, computed once per pack and used by every layer.

    Attributes:
        spec: The static part, its back end chosen.
        bias: 0 where a query sees a key, minus infinity elsewhere; shape ``(T, 1, Q, K)``. Rows of
            queries that see nothing are 0 throughout, so that no softmax is taken over nothing.
        keep_N11: 1 for queries that see something, 0 for empty ranges, NaN where a window is left.
        tiles_TW: Tiles of keys that make up each window; ``None`` where windows are the keys as
            they lie.
    """

    spec: AttentionSpec
    bias: Tensor
    keep_N11: Tensor
    tiles_TW: Tensor | None = None


def attention(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, lo_N: Tensor, hi_N: Tensor, spec: AttentionSpec
) -> Tensor:
    """Attend from each query to the keys ``lo <= key < hi``; returns shape ``(N, H, D)``.

    Args:
        q_NHD: Queries.
        k_MHD: Keys.
        v_MHD: Values.
        lo_N: First key that each query sees; integers.
        hi_N: One past the last.
        spec: What is static.
    """
    return attend(q_NHD, k_MHD, v_MHD, plan_attention(lo_N, hi_N, k_MHD.shape[0], spec))


def plan_attention(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    """Compute once what all layers need of the ranges ``[lo, hi)``.

    Raises:
        PlanError: ``spec`` is diagonal, but queries and keys differ in number.
    """
    if spec.is_diagonal and num_keys != lo_N.shape[0]:
        counts = f"{num_keys} and {lo_N.shape[0]}"
        message = f"diagonal attention needs as many keys as queries, got {counts}"
        raise PlanError.of("T0223", message)
    name = spec.backend
    if name == "auto":
        name = "blockwise" if 0 < 2 * spec.window <= num_keys else "sdpa"
    return BACKENDS[name].plan(lo_N, hi_N, num_keys, replace(spec, backend=name))


def attend(q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend as ``plan`` says; returns shape ``(N, H, D)``."""
    return BACKENDS[plan.spec.backend].attend(q_NHD, k_MHD, v_MHD, plan)


def attend_windows(
    q_TQHD: Tensor, k_TKHD: Tensor, v_TKHD: Tensor, bias: Tensor, scale: float | None = None
) -> Tensor:
    """Attend within each window; ``bias`` is added to scores, shape ``(T, 1, Q, K)``."""
    q, k, v = (x.transpose(1, 2) for x in (q_TQHD, k_TKHD, v_TKHD))
    if q.device.type == "cpu" and q.dtype is torch.bfloat16:
        # The fused kernel's backward pass takes twice as long in this type as in single precision.
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        return ((scores + bias).softmax(-1).to(v.dtype) @ v).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=scale)
    return out.transpose(1, 2)


def _plan_dense(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    bias, keep = _bias(lo_N[None], hi_N[None], lo_N.new_zeros(1), num_keys, num_keys)
    return AttentionPlan(spec, bias, keep.flatten()[:, None, None])


def _attend_dense(q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan) -> Tensor:
    out = attend_windows(q_NHD[None], k_MHD[None], v_MHD[None], plan.bias, plan.spec.scale)
    return out[0] * plan.keep_N11.to(q_NHD.dtype)


def _attend_math(q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan) -> Tensor:
    scale = q_NHD.shape[-1] ** -0.5 if plan.spec.scale is None else plan.spec.scale
    scores_HNM = torch.einsum("nhd,mhd->hnm", q_NHD, k_MHD) * scale + plan.bias[0].to(q_NHD.dtype)
    out_NHD = torch.einsum("hnm,mhd->nhd", scores_HNM.softmax(-1), v_MHD)
    return out_NHD * plan.keep_N11.to(q_NHD.dtype)


def _plan_blockwise(
    lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec
) -> AttentionPlan:
    num_queries, tile = lo_N.shape[0], spec.tile
    num_tiles, num_key_tiles = -(-num_queries // tile), -(-num_keys // tile)
    window_tiles = min(spec.window // tile or num_key_tiles, num_key_tiles)
    pad = (0, num_tiles * tile - num_queries)
    lo_TQ, hi_TQ = (F.pad(x, pad).view(num_tiles, tile) for x in (lo_N, hi_N))
    if spec.is_diagonal:
        first_T = torch.arange(num_tiles, device=lo_N.device)
        tiles_TW = None
    else:
        least_T = lo_TQ.where(hi_TQ > lo_TQ, num_keys).amin(1)
        first_T = (least_T // tile).clamp(0, num_key_tiles - window_tiles)
        tiles_TW = first_T[:, None] + torch.arange(window_tiles, device=lo_N.device)
    bias, keep_TQ = _bias(lo_TQ, hi_TQ, first_T * tile, window_tiles * tile, num_keys)
    keep_N11 = keep_TQ.flatten()[:num_queries, None, None]
    return AttentionPlan(spec, bias, keep_N11, tiles_TW)


def _attend_blockwise(q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan) -> Tensor:
    num_queries, tile = q_NHD.shape[0], plan.spec.tile
    q_TQHD, k_SQHD, v_SQHD = (_tiled(x, tile) for x in (q_NHD, k_MHD, v_MHD))
    if plan.tiles_TW is None:
        k_TKHD, v_TKHD = k_SQHD, v_SQHD
    else:
        k_TKHD, v_TKHD = (_windowed(x, plan.tiles_TW) for x in (k_SQHD, v_SQHD))
    out = attend_windows(q_TQHD, k_TKHD, v_TKHD, plan.bias, plan.spec.scale)
    return out.flatten(0, 1)[:num_queries] * plan.keep_N11.to(q_NHD.dtype)


def _bias(
    lo_TQ: Tensor, hi_TQ: Tensor, start_T: Tensor, window: int, num_keys: int
) -> tuple[Tensor, Tensor]:
    """Return the bias of windows that begin at ``start_T``, and which queries to keep."""
    key_T1K = (start_T[:, None] + torch.arange(window, device=lo_TQ.device))[:, None]
    inside_TQK = (key_T1K >= lo_TQ[..., None]) & (key_T1K < hi_TQ[..., None])
    is_empty_TQ = hi_TQ <= lo_TQ
    stop_T1 = (start_T + window).clamp(max=num_keys)[:, None]
    is_reached_TQ = (lo_TQ >= start_T[:, None]) & (hi_TQ <= stop_T1)
    is_seen_TQK = inside_TQK | ~(inside_TQK.any(-1, keepdim=True))
    bias_T1QK = torch.zeros(is_seen_TQK.shape, device=lo_TQ.device)
    bias_T1QK = bias_T1QK.masked_fill(~is_seen_TQK, -torch.inf)[:, None]
    keep_TQ = torch.where(is_reached_TQ, 1.0, torch.nan).masked_fill(is_empty_TQ, 0.0)
    return bias_T1QK, keep_TQ


def _tiled(x_NHD: Tensor, tile: int) -> Tensor:
    length = x_NHD.shape[0]
    num_tiles = -(-length // tile)
    if length % tile:
        x_NHD = F.pad(x_NHD, (0, 0, 0, 0, 0, num_tiles * tile - length))
    return x_NHD.unflatten(0, (num_tiles, tile))


def _windowed(x_SQHD: Tensor, tiles_TW: Tensor) -> Tensor:
    # Whole tiles are moved: rows this long make the gather and its backward pass plain copies.
    gathered = x_SQHD.index_select(0, tiles_TW.flatten())
    num_tiles, window_tiles = tiles_TW.shape
    return gathered.view(num_tiles, window_tiles * x_SQHD.shape[1], *x_SQHD.shape[2:])


def _problems(spec: AttentionSpec) -> list[Problem]:
    problems: list[Problem] = []
    if spec.backend not in {"auto", *BACKENDS}:
        message = f'unknown attention back end "{spec.backend}"'
        problems.append(Problem("T0221", message, suggest(spec.backend, {"auto", *BACKENDS})))
    if spec.tile < 1:
        problems.append(Problem("T0222", f"tile must be at least 1, got {spec.tile}"))
    elif spec.window < 0 or spec.window % spec.tile:
        message = f"window must be a multiple of tile, got {spec.window} and {spec.tile}"
        problems.append(Problem("T0222", message))
    if spec.is_diagonal and spec.window != spec.tile:
        message = f"diagonal attention has a window of one tile, got {spec.window} and {spec.tile}"
        problems.append(Problem("T0222", message))
    return problems


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to compute attention.

    Attributes:
        plan: Turns ranges into what `attend` reads.
        attend: Computes.
    """

    plan: Callable[[Tensor, Tensor, int, AttentionSpec], AttentionPlan]
    attend: Callable[[Tensor, Tensor, Tensor, AttentionPlan], Tensor]


BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType(
    {
        "math": Backend(_plan_dense, _attend_math),  # any dtype; what the others are tested against
        "sdpa": Backend(_plan_dense, _attend_dense),
        "blockwise": Backend(_plan_blockwise, _attend_blockwise),
    }
)
