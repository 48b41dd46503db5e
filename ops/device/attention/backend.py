"""The back ends of attention, and which of them computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from ....graph.errors import PlanError
from .blockwise import attend_blockwise, plan_blockwise
from .dense import attend_fused, attend_plainly, plan_dense
from .documents import plan_documents
from .flex import attend_flex, lacks_flex, plan_flex
from .key_tiles import plan_key_tiles
from .op import attend_by_op
from .plan import AttentionPlan
from .relative import Relative, check_relative
from .spec import AttentionSpec
from .triton_passes import has_triton, lacks_triton, plan_triton
from .varlen import attend_varlen, lacks_varlen
from .xformers import attend_xformers, lacks_xformers

LONG: Final = 512
"""Keys from which a relative bias is cheaper to look up per block than to hold in memory."""


def attention(
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    lo_N: Tensor,
    hi_N: Tensor,
    spec: AttentionSpec,
    relative: Relative | None = None,
) -> Tensor:
    """Attend from each query to the keys ``lo <= key < hi``; returns shape ``(N, H, D)``.

    Args:
        q_NHD: Queries.
        k_MHD: Keys, of the same head size.
        v_MHD: Values; their head size is that of what is returned.
        lo_N: First key that each query sees; integers.
        hi_N: One past the last.
        spec: What is static.
        relative: Bias of the scores.
    """
    plan = plan_attention(lo_N, hi_N, k_MHD.shape[0], spec)
    return attend(q_NHD, k_MHD, v_MHD, plan, relative)


def plan_attention(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    """Compute once what all layers need of the ranges ``[lo, hi)``.

    Raises:
        PlanError: ``spec`` is diagonal, but queries and keys differ in number.
    """
    if spec.is_diagonal and num_keys != lo_N.shape[0]:
        counts = f"{num_keys} and {lo_N.shape[0]}"
        message = f"diagonal attention needs as many keys as queries, got {counts}"
        raise PlanError.of("T0223", message)
    if spec.backend == "auto":
        spec = choose_backend(lo_N, num_keys, spec)
        # Compiled layers see which back end it is, and are compiled anew for another. They do not see this.
        if spec.backend == "blockwise" and not (spec.window or spec.is_relative):
            tiles = plan_key_tiles(lo_N, hi_N, num_keys)
            if tiles is not None:
                return AttentionPlan(spec, lo_N, hi_N, key_tiles=tiles)
    return BACKENDS[spec.backend].plan(lo_N, hi_N, num_keys, spec)


def attend(
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    plan: AttentionPlan,
    relative: Relative | None = None,
) -> Tensor:
    """Attend as ``plan`` says; returns shape ``(N, H, D)``.

    Raises:
        PlanError: ``relative`` does not fit the stream, or the back end cannot compute this here.
        MissingExtraError: The back end needs a library that is not installed.
    """
    if relative is not None:
        check_relative(q_NHD, k_MHD, relative)
    backend = BACKENDS[plan.spec.backend]
    if reason := backend.lacks(q_NHD, k_MHD, v_MHD, relative):
        message = f'the attention back end "{plan.spec.backend}" cannot compute this: {reason}'
        raise PlanError.of("T0230", message)
    return backend.attend(q_NHD, k_MHD, v_MHD, plan, relative)


def _nothing(*_: object) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to compute attention.

    Attributes:
        plan: Turns ranges into what `attend` reads.
        attend: Computes.
        lacks: Takes queries, keys, values and a bias; returns why it cannot compute this, or nothing.
    """

    plan: Callable[[Tensor, Tensor, int, AttentionSpec], AttentionPlan]
    attend: Callable[[Tensor, Tensor, Tensor, AttentionPlan, Relative | None], Tensor]
    lacks: Callable[[Tensor, Tensor, Tensor, Relative | None], str] = _nothing


BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType(
    {
        "math": Backend(plan_dense, attend_plainly),  # any dtype; what others are tested against
        "sdpa": Backend(plan_dense, attend_fused),
        "blockwise": Backend(plan_blockwise, attend_blockwise),
        "triton": Backend(plan_triton, attend_by_op, lacks_triton),
        "flex": Backend(plan_flex, attend_flex, lacks_flex),
        "varlen": Backend(plan_documents, attend_varlen, lacks_varlen),
        "xformers": Backend(plan_documents, attend_xformers, lacks_xformers),
    }
)


def choose_backend(lo_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionSpec:
    """Return ``spec`` with the back end that suits streams like this, where ``lo_N`` is."""
    # Shapes without values are asked for what a GPU would do.
    if lo_N.is_meta or (lo_N.is_cuda and has_triton()):
        return replace(spec, backend="triton")
    in_blocks = replace(spec, backend="blockwise", window=0, is_diagonal=False)
    # What a compiled program does may not hang on numbers, and devices would be waited for.
    reads_ranges = lo_N.device.type == "cpu" and not torch.compiler.is_compiling()
    if spec.is_relative:
        return in_blocks if reads_ranges or num_keys >= LONG else replace(spec, backend="sdpa")
    # Windows pay where they save at least half of the scores.
    if 0 < 2 * spec.window <= num_keys:
        return replace(spec, backend="blockwise")
    return in_blocks if reads_ranges else replace(spec, backend="sdpa")
