"""Attention by `flex_attention` of torch, which writes a kernel for any mask and bias.

Outside a compiled program it computes plainly, with every score in memory. On CPU it has no
backward pass (torch 2.13), so it computes there what needs no gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor

from .plan import AttentionPlan, Spans, plan_spans
from .relative import Relative
from .spec import AttentionSpec

TILE: Final = 128
"""Tiles of its masks; kernels on GPUs have tiles that divide it."""


def lacks_flex(
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    relative: Relative | None,
) -> str:
    """Return why it cannot compute this here, or nothing."""
    given = [q_NHD, k_MHD, v_MHD, *(relative[:1] if relative else ())]
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    if needs_gradient and q_NHD.device.type == "cpu":
        return "FlexAttention has no backward pass on CPU"
    return ""


def plan_flex(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    """Find out which tiles meet."""
    return AttentionPlan(spec, lo_N, hi_N, spans=plan_spans(lo_N, hi_N, num_keys, TILE))


def attend_flex(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, relative: Relative | None
) -> Tensor:
    """Attend with a mask made of ranges and a bias made of codes; returns shape ``(N, H, D)``."""
    # It brings the compiler along, and Triton, which decides at that moment who runs its kernels.
    from torch.nn.attention.flex_attention import flex_attention  # noqa: PLC0415

    assert plan.spans is not None, "planned by another back end"
    lo_N, hi_N = plan.lo_N, plan.hi_N
    num_queries, num_keys = q_NHD.shape[0], k_MHD.shape[0]

    def is_seen(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= lo_N[query]) & (key < hi_N[query])

    def add(score: Tensor, _batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert relative is not None
        table_HR, code_N, base_N, slot_N = relative
        row = base_N[query] + code_N[key] - code_N[query]
        is_row = (row >= 0) & (row < table_HR.shape[1])
        added = torch.where(is_row, table_HR[head, torch.where(is_row, row, 0)], torch.nan)
        return score + torch.where(slot_N[query] == slot_N[key], added, 0.0)

    mask = _mask(plan.spans, num_queries, num_keys, is_seen)
    q, k, v = (x.transpose(0, 1)[None] for x in (q_NHD, k_MHD, v_MHD))
    if q_NHD.device.type == "cpu":
        # The compiler's template for CPUs reads shapes off what views are made from (torch 2.13).
        q, k, v = (x.contiguous() for x in (q, k, v))
    bias = add if relative else None
    with nullcontext() if torch.compiler.is_compiling() else _no_warning():
        out = flex_attention(q, k, v, bias, block_mask=mask, scale=plan.spec.scale)
    assert isinstance(out, Tensor)
    is_empty_N = hi_N <= lo_N
    is_lost_N = ~is_empty_N & ((lo_N < 0) | (hi_N > num_keys))
    out_NHD = out[0].transpose(0, 1).masked_fill(is_empty_N[:, None, None], 0)
    return out_NHD.masked_fill(is_lost_N[:, None, None], torch.nan)


@contextmanager
def _no_warning() -> Generator[None]:
    """Let it compute plainly where no compiler is at work, which is what is wanted then."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


def _mask(spans: Spans, num_queries: int, num_keys: int, is_seen: Any) -> Any:
    """Return the mask of tiles that meet, and of what is seen within each."""
    from torch.nn.attention.flex_attention import BlockMask  # noqa: PLC0415  # as above

    start_T, stop_T = spans.keys_2T
    first_T = start_T // TILE
    count_T = ((stop_T + TILE - 1) // TILE - first_T).clamp(min=0)
    num_key_tiles = -(-num_keys // TILE)
    order_S = torch.arange(num_key_tiles, dtype=torch.int32, device=start_T.device)
    # All tiles of keys, those that are met first: no more are read than are counted.
    tiles_TS = (first_T[:, None] + order_S) % num_key_tiles
    return BlockMask.from_kv_blocks(
        count_T[None, None],
        tiles_TS[None, None],
        BLOCK_SIZE=(TILE, TILE),
        mask_mod=is_seen,
        seq_lengths=(num_queries, num_keys),
    )
