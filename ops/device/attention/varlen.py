"""Attention by `varlen_attn` of torch: FlashAttention over documents that lie end to end.

It knows no bias, computes on GPUs and in half precision alone, and wants heads of queries, keys and
values to be of one size: values are padded to it.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from .plan import AttentionPlan
from .relative import Relative

TORCH: Final = (2, 11)
"""Before that it had neither a scale nor windows."""


def lacks_varlen(
    q_NHD: Tensor,
    k_MHD: Tensor,  # noqa: ARG001  # as of other back ends
    v_MHD: Tensor,  # noqa: ARG001
    relative: Relative | None,
) -> str:
    """Return why it cannot compute this here, or nothing."""
    if relative is not None:
        return "FlashAttention knows no bias of scores"
    if not q_NHD.is_cuda:
        return "it needs a GPU"
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
        return f"it needs torch {'.'.join(map(str, TORCH))} or newer, got {torch.__version__}"
    if q_NHD.dtype not in {torch.float16, torch.bfloat16}:
        return "FlashAttention computes in half precision alone"
    return ""


def attend_varlen(
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    plan: AttentionPlan,
    relative: Relative | None,  # noqa: ARG001
) -> Tensor:
    """Attend document by document; returns shape ``(N, H, D)``."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  # few ask for it

    documents = plan.documents
    assert documents is not None, "planned by another back end"
    v_size = v_MHD.shape[-1]
    out = varlen_attn(
        q_NHD,
        k_MHD,
        F.pad(v_MHD, (0, q_NHD.shape[-1] - v_size)),
        *documents.offsets(q_NHD.device),
        max(documents.query_counts),
        max(documents.key_counts),
        scale=plan.spec.scale,
        window_size=(-1, 0) if documents.is_causal else (-1, -1),
    )
    assert isinstance(out, Tensor)
    is_empty_N = plan.hi_N <= plan.lo_N
    return out[..., :v_size].masked_fill(is_empty_N[:, None, None], 0)
