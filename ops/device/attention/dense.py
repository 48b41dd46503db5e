"""Attention with every score in memory at once: the fused call of torch, and plain arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from .plan import AttentionPlan, mask_all
from .relative import Relative, relative_scores
from .spec import AttentionSpec
from .windows import attend_windows


def plan_dense(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    """Mask one window that holds every key."""
    return AttentionPlan(spec, lo_N, hi_N, mask_all(lo_N, hi_N, num_keys))


def attend_fused(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, relative: Relative | None
) -> Tensor:
    """Let `scaled_dot_product_attention` compute, with the bias as its mask."""
    bias, keep_N11 = _dense(plan, relative)
    out = attend_windows(q_NHD[None], k_MHD[None], v_MHD[None], bias, plan.spec.scale)
    return out[0] * keep_N11.to(q_NHD.dtype)


def attend_plainly(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, relative: Relative | None
) -> Tensor:
    """Compute as the formula says, in the type of the inputs."""
    bias, keep_N11 = _dense(plan, relative)
    scores_HNM = torch.einsum("nhd,mhd->hnm", q_NHD, k_MHD) * plan.spec.scale_of(q_NHD.shape[-1])
    weights_HNM = (scores_HNM + bias[0].to(q_NHD.dtype)).softmax(-1)
    out_NHD = torch.einsum("hnm,mhd->nhd", weights_HNM, v_MHD)
    return out_NHD * keep_N11.to(q_NHD.dtype)


def _dense(plan: AttentionPlan, relative: Relative | None) -> tuple[Tensor, Tensor]:
    assert plan.windows is not None, "planned by another back end"
    bias, keep_N11, _ = plan.windows
    if relative is not None:
        bias = bias + relative_scores(relative, plan.lo_N, plan.hi_N)
    return bias, keep_N11
