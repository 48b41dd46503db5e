"""Attention by xFormers over documents that lie end to end.

Its wheels are built against one version of torch and say so in no requirement that pip would check,
so the pair is checked when it is imported.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import torch
from torch import Tensor

from ....graph.errors import MissingExtraError, PlanError
from .plan import AttentionPlan
from .relative import Relative

VERSION: Final = "0.0.35"
TORCH: Final = (2, 10)
"""The first torch that this xFormers runs beside; it keeps to torch's stable interface."""


def lacks_xformers(
    q_NHD: Tensor,
    k_MHD: Tensor,  # noqa: ARG001  # as of other back ends
    v_MHD: Tensor,  # noqa: ARG001
    relative: Relative | None,
) -> str:
    """Return why it cannot compute this here, or nothing.

    Raises:
        MissingExtraError: xFormers is not installed, or not in the version that goes with torch.
    """
    if relative is not None:
        return "xFormers has no gradient for a bias that all documents share"
    if not q_NHD.is_cuda:
        return "it needs a GPU"
    if q_NHD.dtype is torch.float64:
        return "it computes in half and in single precision alone"
    load_xformers()
    return ""


def attend_xformers(
    q_NHD: Tensor,
    k_MHD: Tensor,
    v_MHD: Tensor,
    plan: AttentionPlan,
    relative: Relative | None,  # noqa: ARG001
) -> Tensor:
    """Attend document by document; returns shape ``(N, H, D)``.

    Raises:
        PlanError: xFormers was not built for this device, or for these types and sizes.
    """
    documents = plan.documents
    assert documents is not None, "planned by another back end"
    ops = load_xformers()
    mask = ops.fmha.attn_bias.BlockDiagonalMask.from_seqlens(
        documents.query_counts, documents.key_counts
    )
    try:
        out = ops.memory_efficient_attention(
            q_NHD[None],
            k_MHD[None],
            v_MHD[None],
            attn_bias=mask.make_causal() if documents.is_causal else mask,
            scale=plan.spec.scale,
        )
    except NotImplementedError as error:
        # Its operators are built for one version of torch and of CUDA, and are left out beside others.
        message = (
            'the attention back end "xformers" cannot compute this: it has no operator for it here'
        )
        raise PlanError.of("T0230", message, "python -m xformers.info tells what it has") from error
    is_empty_N = plan.hi_N <= plan.lo_N
    return out[0].masked_fill(is_empty_N[:, None, None], 0)


def load_xformers() -> Any:
    """Return ``xformers.ops``.

    Raises:
        MissingExtraError: xFormers is not installed, or not in the version that goes with torch.
    """
    help_ = 'pip install "taskloom[gpu]"'
    try:
        found = importlib.import_module("xformers").__version__
    except ImportError as error:
        message = "the attention back end xformers needs the extra gpu"
        raise MissingExtraError.of("T0901", message, help_) from error
    beside = tuple(map(int, torch.__version__.split(".")[:2]))
    if found.split("+")[0] != VERSION or beside < TORCH:
        message = (
            f"the attention back end xformers needs xFormers {VERSION} beside torch "
            f"{'.'.join(map(str, TORCH))} or newer, got {found} beside {torch.__version__}"
        )
        raise MissingExtraError.of("T0901", message, help_)
    return importlib.import_module("xformers.ops")
