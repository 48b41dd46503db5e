"""All that ranges decide, computed once per pack and used by every layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import Blocks
from .spec import AttentionSpec


class Windows(NamedTuple):
    """What each tile of queries sees of the window of keys that it may reach.

    Window sizes are static, so a pack must keep them: a query whose range leaves its window gets
    NaN, which no loss survives, rather than an answer that ignores some of its keys.

    Attributes:
        bias: 0 where a query sees a key, minus infinity elsewhere; shape ``(T, 1, Q, K)``. Rows of
            queries that see nothing are 0 throughout, so that no softmax is taken over nothing.
        keep_N11: 1 for queries that see something, 0 for empty ranges, NaN where a window is left.
        tiles_TW: Tiles of keys that make up each window; ``None`` where windows are the keys as
            they lie.
    """

    bias: Tensor
    keep_N11: Tensor
    tiles_TW: Tensor | None = None


class KeyTiles(NamedTuple):
    """Which queries stand beside each tile of keys.

    Attributes:
        keys: The tiles, from the first that is seen to the last.
        size: Keys of a tile.
        bias: As in `Windows`, by places; rows of those that are not taken are 0 throughout, too.
        keep_N11: As in `Windows`, by queries.
        query_X: Query in each place; ``None`` where they stand beside a single tile as they lie.
        place_N: Place of each query; any one for those that see nothing.
    """

    keys: slice
    size: int
    bias: Tensor
    keep_N11: Tensor
    query_X: Tensor | None = None
    place_N: Tensor | None = None


class Spans(NamedTuple):
    """Which tiles meet, two numbers each: the first of the tokens that a tile meets, one past the last.

    Attributes:
        keys_2T: Keys that any query of a tile sees; int32.
        queries_2S: Queries, from the first tile of them to the last, that see any key of a tile;
            int32.
    """

    keys_2T: Tensor
    queries_2S: Tensor


class Documents(NamedTuple):
    """Sequences that lie end to end.

    Attributes:
        query_counts: Queries of each.
        key_counts: Keys of each.
        is_causal: Whether a query sees the keys up to its own place, rather than all of them.
    """

    query_counts: list[int]
    key_counts: list[int]
    is_causal: bool

    def offsets(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return where the queries and the keys of each begin, and where the last end; int32."""
        counts = torch.tensor([[0, *self.query_counts], [0, *self.key_counts]], dtype=torch.int32)
        of_queries, of_keys = counts.cumsum(1, dtype=torch.int32).to(device)
        return of_queries, of_keys


class AttentionPlan(NamedTuple):
    """All that ranges decide.

    Attributes:
        spec: The static part, its back end chosen.
        lo_N: First key that each query sees.
        hi_N: One past the last.
        windows: What back ends read that compute with windows.
        spans: What back ends read that walk from tile to tile.
        documents: What back ends read that know nothing but documents.
        blocks: What back ends read that compute block by block, where ranges can be read as numbers.
        key_tiles: What they read where whole tiles of keys are seen from few queries.
    """

    spec: AttentionSpec
    lo_N: Tensor
    hi_N: Tensor
    windows: Windows | None = None
    spans: Spans | None = None
    documents: Documents | None = None
    blocks: Blocks | None = None
    key_tiles: KeyTiles | None = None


def plan_spans(lo_N: Tensor, hi_N: Tensor, num_keys: int, tile: int) -> Spans:
    """Find out which tiles meet."""
    num_queries = lo_N.shape[0]
    num_tiles, num_key_tiles = -(-num_queries // tile), -(-num_keys // tile)
    is_empty_N = hi_N <= lo_N
    pad = (0, num_tiles * tile - num_queries)
    first_N, last_N = lo_N.masked_fill(is_empty_N, num_keys), hi_N.masked_fill(is_empty_N, 0)
    start_T = F.pad(first_N, pad, value=num_keys).view(num_tiles, tile).amin(1).clamp(min=0)
    stop_T = F.pad(last_N, pad).view(num_tiles, tile).amax(1).clamp(max=num_keys)
    key_S = torch.arange(num_key_tiles, device=lo_N.device) * tile
    meets_TS = (start_T[:, None] < key_S + tile) & (stop_T[:, None] > key_S)
    tile_T1 = torch.arange(num_tiles, device=lo_N.device)[:, None]
    first_S = tile_T1.where(meets_TS, num_tiles).amin(0)
    last_S = (tile_T1 + 1).where(meets_TS, 0).amax(0)
    queries_2S = (torch.stack((first_S, last_S)) * tile).clamp(max=num_queries)
    return Spans(torch.stack((start_T, stop_T)).int(), queries_2S.int())


def mask_windows(
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


def mask_all(lo_N: Tensor, hi_N: Tensor, num_keys: int) -> Windows:
    """Return one window that holds every key."""
    bias, keep_1N = mask_windows(lo_N[None], hi_N[None], lo_N.new_zeros(1), num_keys, num_keys)
    return Windows(bias, keep_1N.flatten()[:, None, None])
