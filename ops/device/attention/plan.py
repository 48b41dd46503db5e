"""All that ranges decide, computed once per pack and used by every layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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


class AttentionPlan(NamedTuple):
    """All that ranges decide.

    Attributes:
        spec: The static part, its back end chosen.
        lo_N: First key that each query sees.
        hi_N: One past the last.
        windows: What back ends read that compute with windows.
    """

    spec: AttentionSpec
    lo_N: Tensor
    hi_N: Tensor
    windows: Windows | None = None


def plan_ranges(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:  # noqa: ARG001 - the shape of the others
    """Plan nothing: the back end reads the ranges themselves."""
    return AttentionPlan(spec, lo_N, hi_N)


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
