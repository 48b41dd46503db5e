"""Tiles of queries, each with a window of the keys, computed all at once.

Why no `flex_attention` on the host: it has no backward pass on CPU (torch 2.13).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import precise
from .plan import AttentionPlan, Windows, mask_windows
from .spec import AttentionSpec


def attend_windows(
    q_TQHD: Tensor, k_TKHD: Tensor, v_TKHD: Tensor, bias: Tensor, scale: float | None = None
) -> Tensor:
    """Attend within each window; ``bias`` is added to scores, shape ``(T, 1 or H, Q, K)``."""
    q, k, v = (x.transpose(1, 2) for x in (q_TQHD, k_TKHD, v_TKHD))
    size = v.shape[-1]
    if q.device.type == "cpu":
        # Half precision takes the fused kernel up to twice as long as single, which it is computed in anyway.
        q, k, v = (x.to(precise(x.dtype)) for x in (q, k, v))
    # Fused kernels want heads of one size; without them every score would be kept.
    v = F.pad(v, (0, q.shape[-1] - size)) if size < q.shape[-1] else v
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=scale)
    return out[..., :size].to(q_TQHD.dtype).transpose(1, 2)


def plan_windows(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> Windows:
    """Place a window of ``spec.window`` keys for each tile of queries."""
    num_queries, tile = lo_N.shape[0], spec.tile
    num_tiles, num_key_tiles = -(-num_queries // tile), -(-num_keys // tile)
    window_tiles = min(spec.window // tile, num_key_tiles)
    pad = (0, num_tiles * tile - num_queries)
    lo_TQ, hi_TQ = (F.pad(x, pad).view(num_tiles, tile) for x in (lo_N, hi_N))
    if spec.is_diagonal:
        first_T = torch.arange(num_tiles, device=lo_N.device)
        tiles_TW = None
    else:
        least_T = lo_TQ.where(hi_TQ > lo_TQ, num_keys).amin(1)
        first_T = (least_T // tile).clamp(0, num_key_tiles - window_tiles)
        tiles_TW = first_T[:, None] + torch.arange(window_tiles, device=lo_N.device)
    bias, keep_TQ = mask_windows(lo_TQ, hi_TQ, first_T * tile, window_tiles * tile, num_keys)
    return Windows(bias, keep_TQ.flatten()[:num_queries, None, None], tiles_TW)


def attend_in_windows(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, windows: Windows
) -> Tensor:
    """Attend from each tile to its window; returns shape ``(N, H, D)``."""
    num_queries, tile = q_NHD.shape[0], plan.spec.tile
    q_TQHD, k_SQHD, v_SQHD = (_tiled(x, tile) for x in (q_NHD, k_MHD, v_MHD))
    if windows.tiles_TW is None:
        k_TKHD, v_TKHD = k_SQHD, v_SQHD
    else:
        k_TKHD, v_TKHD = (_windowed(x, windows.tiles_TW) for x in (k_SQHD, v_SQHD))
    out = attend_windows(q_TQHD, k_TKHD, v_TKHD, windows.bias, plan.spec.scale)
    return out.flatten(0, 1)[:num_queries] * windows.keep_N11.to(q_NHD.dtype)


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
