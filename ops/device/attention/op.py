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
from torch import Tensor

from .block_passes import BLOCKS
from .call import Call, Passes, precise
from .plan import AttentionPlan, plan_spans
from .relative import Relative, stack_codes
from .triton_passes import TRITON

PASSES: Final[Mapping[str, Passes]] = MappingProxyType({"blockwise": BLOCKS, "triton": TRITON})


def attend_by_op(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, relative: Relative | None
) -> Tensor:
    """Attend by the passes of ``plan.spec.backend``; returns shape ``(N, H, D)``."""
    spec, spans = plan.spec, plan.spans
    if spans is None:
        spans = plan_spans(plan.lo_N, plan.hi_N, k_MHD.shape[0], spec.tile)
    call = Call(
        q_NHD,
        k_MHD,
        v_MHD,
        None if relative is None else relative.table_HR,
        None if relative is None else stack_codes(relative),
        torch.stack((plan.lo_N, plan.hi_N)),
        *spans,
        spec.scale_of(q_NHD.shape[-1]),
        spec.tile,
    )
    return _attend(spec.backend, *call)[0]


@torch.library.custom_op("taskloom_ops::attention", mutates_args=())
def _attend(
    backend: str,
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    table_HR: Tensor | None,
    codes_3N: Tensor | None,
    ranges_2N: Tensor,
    keys_2T: Tensor,
    queries_2S: Tensor,
    scale: float,
    tile: int,
) -> tuple[Tensor, Tensor]:
    given = (q_NHD, k_MHD, v_MHD, table_HR, codes_3N, ranges_2N, keys_2T, queries_2S)
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
    ranges_2N: Tensor,
    keys_2T: Tensor,
    queries_2S: Tensor,
    scale: float,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given = (q_NHD, k_MHD, v_MHD, table_HR, codes_3N, ranges_2N, keys_2T, queries_2S)
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
    table_HR = saved[5]
    grad_table = None if table_HR is None else grad_table.to(table_HR.dtype)
    return None, *grads, grad_table, *[None] * 6


_attend.register_autograd(_differentiate, setup_context=_remember)
