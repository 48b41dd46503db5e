"""Attention of one query of each row to what is kept, by a kernel on a GPU.

Keys of positions, masks and cats cost more there than the keys themselves, a launch each. So one kernel adds a
row's own key and value to what is kept, scores, and sums; of a target it looks as far back as is written.

Shape letters: as in `taskloom.ops.device.decode.step`; G = H, or 1 for all heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.triton_passes import has_triton


def has_kernel(memory_MC: Tensor) -> bool:
    """Return whether the kernel attends to what is kept of ``memory_MC``."""
    return memory_MC.is_cuda and memory_MC.dtype is not torch.float64 and has_triton()


@torch.library.custom_op("taskloom::attend_target", mutates_args=("keys", "values"))
def attend_target(
    q_RHD: Tensor,
    k_RHD: Tensor,
    v_RHD: Tensor,
    keys: Tensor,
    values: Tensor,
    index: Tensor,
    bias_1HP: Tensor | None,
    scale: float,
) -> Tensor:
    """Return what each row sees of its target, itself included, shape ``(R, H, D)``.

    Args:
        q_RHD: Queries.
        k_RHD: Keys of the rows at hand, which are kept.
        v_RHD: Values of them.
        keys: What is kept, shape ``(R, H, L, D)``; its first ``index`` keys are seen.
        values: The same of values.
        index: Position of the rows, shape ``(1,)``.
        bias_1HP: What is added to scores.
        scale: Factor of scores.
    """
    from .attend_row_kernel import launch  # noqa: PLC0415  # Triton is of the extra gpu

    return launch(q_RHD, keys, values, bias_1HP, scale, new=(k_RHD, v_RHD, index))


@torch.library.custom_op("taskloom::attend_source", mutates_args=())
def attend_source(
    q_RHD: Tensor, keys: Tensor, values: Tensor, bias_BGS: Tensor, scale: float
) -> Tensor:
    """Return what each row sees of its document's source, shape ``(R, H, D)``.

    Args:
        q_RHD: Queries, those of a document next to each other.
        keys: Shape ``(B, H, S, D)``.
        values: The same of values.
        bias_BGS: What is added to scores.
        scale: Factor of scores.
    """
    from .attend_row_kernel import launch  # noqa: PLC0415  # Triton is of the extra gpu

    return launch(q_RHD, keys, values, bias_BGS, scale)


@attend_target.register_fake
@attend_source.register_fake
def _(q_RHD: Tensor, *_: object) -> Tensor:
    return q_RHD.new_empty(q_RHD.shape)
