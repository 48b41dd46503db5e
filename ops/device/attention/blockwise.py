"""Attention without most scores of queries and keys that never meet: in windows, or in blocks.

Windows are static, so that compiled programs can place them. Blocks are as long as documents are, and are
found outside of what is compiled; inside, they are found by an op that the compiler does not look into. A plan
may have tiles of keys in place of blocks, for layers that are not compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .block_passes import AttendInBlocks, Way
from .blocks import Blocks
from .key_tiles import attend_beside_tiles
from .op import attend_by_op
from .plan import AttentionPlan
from .relative import Relative
from .spec import AttentionSpec
from .windows import attend_in_windows, plan_windows


def plan_blockwise(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    """Place windows if ``spec`` bounds them, and find blocks otherwise."""
    if spec.window and not spec.is_relative:
        return AttentionPlan(spec, lo_N, hi_N, plan_windows(lo_N, hi_N, num_keys, spec))
    if torch.compiler.is_compiling():
        return AttentionPlan(spec, lo_N, hi_N)
    blocks = Blocks(lo_N, hi_N, num_keys, spec.tile)
    return AttentionPlan(spec, lo_N, hi_N, blocks=blocks)


def attend_blockwise(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, relative: Relative | None
) -> Tensor:
    """Attend in windows all at once, or in blocks, those of a size at once."""
    if plan.windows is not None and relative is None:
        return attend_in_windows(q_NHD, k_MHD, v_MHD, plan, plan.windows)
    # Tiles and blocks differ from pack to pack, and a layer that saw them would be compiled anew for each.
    is_compiling = torch.compiler.is_compiling()
    if not is_compiling and plan.key_tiles is not None and relative is None:
        return attend_beside_tiles(q_NHD, k_MHD, v_MHD, plan.key_tiles, plan.spec.scale)
    if is_compiling or plan.blocks is None:
        return attend_by_op(q_NHD, k_MHD, v_MHD, plan, relative)
    table_HR = None if relative is None else relative.table_HR
    codes = None if relative is None else relative[1:]
    keeps = plan.blocks.keeps and torch.is_grad_enabled()
    way = Way(plan.blocks, codes, plan.spec.scale_of(q_NHD.shape[-1]), keeps)
    out_NHD: Tensor = AttendInBlocks.apply(q_NHD, k_MHD, v_MHD, table_HR, way)
    return plan.blocks.spoil_lost(out_NHD)
