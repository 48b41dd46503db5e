"""Attention as one op of torch, for back ends whose passes are code of their own.

To the compiler the op is opaque: it breaks no graph, and nothing is specialised on what ranges say.
Its backward pass is an op as well, which computes scores again from the log of each query's sum of
exponentials instead of keeping them, as FlashAttention does (arXiv:2205.14135).
"""

# ruff: noqa: PLR0913, PLR0917  # an op takes its tensors one by one

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from .block_passes import BLOCKS
from .call import Call, Passes, precise
from .plan import AttentionPlan
from .relative import Relative
from .triton_passes import TRITON

PASSES: Final[Mapping[str, Passes]] = MappingProxyType({"blockwise": BLOCKS, "triton": TRITON})


def attend_by_op(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, relative: Relative | None
) -> Tensor:
    """Attend by the passes of ``plan.spec.backend``; returns shape ``(N, H, D)``."""
    spec, spans = plan.spec, plan.spans
    table_HR = codes_3N = runs_T = None
    if relative is not None:
        table_HR = relative.table_HR.to(precise(q_NHD.dtype)).contiguous()
        shift_N = relative.base_N - relative.code_N
        codes_3N = torch.stack((shift_N, relative.code_N, relative.slot_N)).int()
        # Only who walks from tile to tile asks what a tile is like.
        runs_T = None if spans is None else _find_runs(codes_3N, spec.tile)
    call = Call(
        q_NHD,
        k_MHD,
        v_MHD,
        table_HR,
        codes_3N,
        runs_T,
        torch.stack((plan.lo_N, plan.hi_N)).int(),
        *(spans or (None, None)),
        spec.scale_of(q_NHD.shape[-1]),
        spec.tile,
    )
    return _attend(spec.backend, *call)[0]


def _find_runs(codes_3N: Tensor, tile: int) -> Tensor:
    """Return whether codes run on throughout each tile, as in `Call`."""
    step_3N = codes_3N.diff()
    breaks_N = (step_3N[0] != -1) | (step_3N[1] != 1) | (step_3N[2] != 0)
    # The break before a tile's first token is no break within the tile.
    pad = (1, -codes_3N.shape[1] % tile)
    return (~F.pad(breaks_N, pad).view(-1, tile)[:, 1:].any(1)).int()


@torch.library.custom_op("taskloom_ops::attention", mutates_args=())
def _attend(
    backend: str,
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    table_HR: Tensor | None,
    codes_3N: Tensor | None,
    runs_T: Tensor | None,
    ranges_2N: Tensor,
    keys_2T: Tensor | None,
    queries_2S: Tensor | None,
    scale: float,
    tile: int,
) -> tuple[Tensor, Tensor]:
    given = (q_NHD, k_MHD, v_MHD, table_HR, codes_3N, runs_T, ranges_2N, keys_2T, queries_2S)
    return PASSES[backend].forward(Call(*given, scale, tile))


@torch.library.custom_op("taskloom_ops::attention_backward", mutates_args=())
def _attend_backward(
    backend: str,
    grad_NHD: Tensor,
    out_NHD: Tensor,
    log_sums_HN: Tensor,
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    table_HR: Tensor | None,
    codes_3N: Tensor | None,
    runs_T: Tensor | None,
    ranges_2N: Tensor,
    keys_2T: Tensor | None,
    queries_2S: Tensor | None,
    scale: float,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given = (q_NHD, k_MHD, v_MHD, table_HR, codes_3N, runs_T, ranges_2N, keys_2T, queries_2S)
    call = Call(*given, scale, tile)
    return PASSES[backend].backward(call, grad_NHD, out_NHD, log_sums_HN)


@_attend.register_fake
def _(backend: str, *arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    call = Call(*arguments)
    num_queries, num_heads = call.q_NHD.shape[:2]
    out_NHD = call.q_NHD.new_empty(num_queries, num_heads, call.v_MHD.shape[-1])
    dtype = precise(call.q_NHD.dtype)
    return out_NHD, call.q_NHD.new_empty(num_heads, num_queries, dtype=dtype)


@_attend_backward.register_fake
def _(
    backend: str,  # noqa: ARG001
    grad_NHD: Tensor,  # noqa: ARG001
    out_NHD: Tensor,  # noqa: ARG001
    log_sums_HN: Tensor,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call = Call(*arguments)
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in call[:3])
    size = 0 if call.table_HR is None else call.table_HR.shape
    return grad_q, grad_k, grad_v, log_sums_HN.new_empty(size)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.backend, *tensors, ctx.scale, ctx.tile = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, *tensors)


def _differentiate(ctx: Any, grad_NHD: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    *grads, grad_table = _attend_backward(ctx.backend, grad_NHD, *saved, ctx.scale, ctx.tile)
    return None, *grads, None if saved[5] is None else grad_table, *[None] * 7


_attend.register_autograd(_differentiate, setup_context=_remember)
