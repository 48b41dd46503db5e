"""Attention one tile of queries after another, with memory that grows with the stream alone.

No more than the scores of one tile are in memory, and none outlives its tile: the backward pass
computes them again from the log of each query's sum of exponentials, as FlashAttention does
(arXiv:2205.14135). Both passes are custom ops, opaque to the compiler: ranges are read as numbers,
so tiles skip what none of their queries sees, and nothing is specialised on them.

Shape letters beside those of the package: S = differences of codes between a tile and its keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .codes import Codes, TileCodes
from .plan import AttentionPlan
from .relative import Relative


def attend_stream(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, relative: Relative | None
) -> Tensor:
    """Attend tile after tile; returns shape ``(N, H, D)``."""
    table_HR, codes_3N = None, None
    if relative is not None:
        table_HR, codes_3N = relative.table_HR, torch.stack(relative[1:])
    scale, tile = plan.spec.scale_of(q_NHD.shape[-1]), plan.spec.tile
    ranges_2N = torch.stack((plan.lo_N, plan.hi_N))
    return _forward(q_NHD, k_MHD, v_MHD, ranges_2N, table_HR, codes_3N, scale, tile)[0]


class _Tile(NamedTuple):
    """Some queries, and the keys that any of them sees.

    Attributes:
        rows: The queries.
        keys: The keys.
        hidden_QK: Which queries do not see which keys; ``None`` where all see all.
        codes: What the bias needs, if there is one.
    """

    rows: slice
    keys: slice
    hidden_QK: Tensor | None
    codes: TileCodes | None


@torch.library.custom_op("taskloom::attend_stream", mutates_args=())
def _forward(
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    ranges_2N: Tensor,
    table_HR: Tensor | None,
    codes_3N: Tensor | None,
    scale: float,
    tile: int,
) -> tuple[Tensor, Tensor]:
    q, k, v = (_by_head(x) for x in (q_NHD, k_MHD, v_MHD))
    out_NHD, log_sums_HN = _empty_results(q_NHD, v_MHD)
    out_NHD.zero_()
    log_sums_HN.fill_(torch.inf)
    codes = _codes(table_HR, codes_3N, q.dtype)
    for rows, keys, hidden_QK, tile_codes in _tiles(ranges_2N, k_MHD.shape[0], codes, tile):
        scores_HQK = _scores(q[:, rows], k[:, keys], scale, hidden_QK, tile_codes)
        greatest_HQ1 = scores_HQK.amax(-1, keepdim=True)
        greatest_HQ1.masked_fill_(greatest_HQ1 == -torch.inf, 0)
        weights_HQK = scores_HQK.sub_(greatest_HQ1).exp_()
        sums_HQ1 = weights_HQK.sum(-1, keepdim=True)
        # A query that sees nothing has the sum 0: its weights are 0 here, and stay 0 backward,
        # where they are exp(score - inf).
        out_HQD = (weights_HQK @ v[:, keys]).div_(sums_HQ1.where(sums_HQ1 != 0, 1))
        out_NHD[rows] = out_HQD.transpose(0, 1)
        log_sums_HQ1 = greatest_HQ1 + sums_HQ1.log()
        log_sums_HN[:, rows] = log_sums_HQ1.masked_fill(sums_HQ1 == 0, torch.inf)[..., 0]
    lo_N, hi_N = ranges_2N
    is_lost_N = (lo_N < hi_N) & ((lo_N < 0) | (hi_N > k_MHD.shape[0]))
    log_sums_HN.masked_fill_(is_lost_N, torch.nan)
    return out_NHD.masked_fill_(is_lost_N[:, None, None], torch.nan), log_sums_HN


@torch.library.custom_op("taskloom::attend_stream_backward", mutates_args=())
def _backward(  # noqa: PLR0913, PLR0917  # an op takes its tensors one by one
    grad_NHD: Tensor,
    out_NHD: Tensor,
    log_sums_HN: Tensor,
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    ranges_2N: Tensor,
    table_HR: Tensor | None,
    codes_3N: Tensor | None,
    scale: float,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad, q, k, v = (_by_head(x) for x in (grad_NHD, q_NHD, k_MHD, v_MHD))
    dot_HN1 = (grad * _by_head(out_NHD)).sum(-1, keepdim=True)
    grads = [q.new_zeros(x.shape) for x in (q_NHD, k_MHD, v_MHD)]
    grad_q, grad_k, grad_v = (x.transpose(0, 1) for x in grads)
    grad_table_HR = q.new_zeros(0 if table_HR is None else table_HR.shape)
    codes = _codes(table_HR, codes_3N, q.dtype)
    for rows, keys, hidden_QK, tile_codes in _tiles(ranges_2N, k_MHD.shape[0], codes, tile):
        scores_HQK = _scores(q[:, rows], k[:, keys], scale, hidden_QK, tile_codes)
        weights_HQK = scores_HQK.sub_(log_sums_HN[:, rows, None]).exp_()
        grad_v[:, keys].baddbmm_(weights_HQK.mT, grad[:, rows])
        grad_scores_HQK = grad[:, rows] @ v[:, keys].mT
        grad_scores_HQK.sub_(dot_HN1[:, rows]).mul_(weights_HQK)
        if tile_codes is not None:
            tile_codes.add_gradient(grad_table_HR, grad_scores_HQK)
        grad_q[:, rows].baddbmm_(grad_scores_HQK, k[:, keys], alpha=scale)
        grad_k[:, keys].baddbmm_(grad_scores_HQK.mT, q[:, rows], alpha=scale)
    types = (q_NHD.dtype, k_MHD.dtype, v_MHD.dtype)
    given = [grad.to(dtype) for grad, dtype in zip(grads, types, strict=True)]
    return given[0], given[1], given[2], grad_table_HR


@_forward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    q_NHD, _, v_MHD, *_ = arguments
    return _empty_results(q_NHD, v_MHD)


@_backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, _, _, q_NHD, k_MHD, v_MHD, _, table_HR, *_ = arguments
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q_NHD, k_MHD, v_MHD))
    size = 0 if table_HR is None else table_HR.shape
    grad_table = q_NHD.new_empty(size, dtype=_precise(q_NHD.dtype))
    return grad_q, grad_k, grad_v, grad_table


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.tile = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, *tensors)


def _differentiate(ctx: Any, grad_NHD: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *grads, grad_table = _backward(grad_NHD, *ctx.saved_tensors, ctx.scale, ctx.tile)
    table_HR = ctx.saved_tensors[6]
    grad_table = None if table_HR is None else grad_table.to(table_HR.dtype)
    return *grads, None, grad_table, None, None, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def _codes(table_HR: Tensor | None, codes_3N: Tensor | None, dtype: torch.dtype) -> Codes | None:
    if table_HR is None or codes_3N is None:
        return None
    return Codes(table_HR.to(dtype), codes_3N)


def _tiles(ranges_2N: Tensor, num_keys: int, codes: Codes | None, tile: int) -> Iterator[_Tile]:
    """Yield the tiles of which some query sees something."""
    lo_N, hi_N = ranges_2N.long()
    is_empty_N = hi_N <= lo_N
    least_N, most_N = lo_N.where(~is_empty_N, num_keys), hi_N.where(~is_empty_N, 0)
    key_M = torch.arange(num_keys, device=lo_N.device)
    bounds = zip(*(x.split(tile) for x in (lo_N, hi_N, least_N, most_N)), strict=True)
    for index, (lo_Q, hi_Q, least_Q, most_Q) in enumerate(bounds):
        start, stop = max(0, int(least_Q.min())), min(num_keys, int(most_Q.max()))
        if start >= stop:
            continue
        rows = slice(index * tile, index * tile + lo_Q.shape[0])
        keys = slice(start, stop)
        hidden_QK = None
        if int(lo_Q.max()) > start or int(hi_Q.min()) < stop:
            hidden_QK = (key_M[keys] < lo_Q[:, None]) | (key_M[keys] >= hi_Q[:, None])
        yield _Tile(rows, keys, hidden_QK, codes.of(rows, keys) if codes else None)


def _scores(
    q_HQD: Tensor, k_HKD: Tensor, scale: float, hidden_QK: Tensor | None, codes: TileCodes | None
) -> Tensor:
    if codes is None:
        scores_HQK = (q_HQD @ k_HKD.mT).mul_(scale)
    else:
        scores_HQK = torch.baddbmm(codes.bias(), q_HQD, k_HKD.mT, alpha=scale)
    return scores_HQK if hidden_QK is None else scores_HQK.masked_fill_(hidden_QK, -torch.inf)


def _by_head(x_NHD: Tensor) -> Tensor:
    """Return ``x_NHD`` with heads first, in a type that sums may be taken in."""
    return x_NHD.to(_precise(x_NHD.dtype)).transpose(0, 1)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _empty_results(q_NHD: Tensor, v_MHD: Tensor) -> tuple[Tensor, Tensor]:
    num_queries, num_heads = q_NHD.shape[:2]
    out_NHD = q_NHD.new_empty(num_queries, num_heads, v_MHD.shape[-1])
    return out_NHD, q_NHD.new_empty(num_heads, num_queries, dtype=_precise(q_NHD.dtype))
