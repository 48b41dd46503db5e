"""Attention by tiles of queries: windows where they are known, one tile after another elsewhere."""

from __future__ import annotations

from torch import Tensor

from .op import attend_by_op
from .plan import AttentionPlan, plan_spans
from .relative import Relative
from .spec import AttentionSpec
from .windows import attend_in_windows, plan_windows


def plan_blockwise(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    """Place windows if ``spec`` bounds them, and find out which tiles meet otherwise."""
    if not spec.window or spec.is_relative:
        spans = plan_spans(lo_N, hi_N, num_keys, spec.tile)
        return AttentionPlan(spec, lo_N, hi_N, spans=spans)
    return AttentionPlan(spec, lo_N, hi_N, plan_windows(lo_N, hi_N, num_keys, spec))


def attend_blockwise(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, relative: Relative | None
) -> Tensor:
    """Attend in windows all at once, or tile after tile."""
    if plan.windows is not None and relative is None:
        return attend_in_windows(q_NHD, k_MHD, v_MHD, plan, plan.windows)
    return attend_by_op(q_NHD, k_MHD, v_MHD, plan, relative)
