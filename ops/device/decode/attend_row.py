"""Attention of one query of each row to what is kept, by a kernel on a GPU.

Keys of positions, masks and cats cost more there than the keys themselves, a launch each. So one kernel adds a
row's own key and value to what is kept, scores, and sums; of a target it looks as far back as is written.

Shape letters: as in `taskloom.ops.device.decode.step`; G = H, or 1 for all heads; J =
layers, or 1 for all.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("taskloom::attend_target", mutates_args=("keys", "values"))
def attend_target(
    states_R3HD: Tensor,
    keys: Tensor,
    values: Tensor,
    index: Tensor,
    bias_J1HP: Tensor | None,
    layer: int,
    scale: float,
) -> Tensor:
    """Return what each row sees of its target, itself included, shape ``(R, H, D)``.

    Args:
        states_R3HD: Queries of the rows at hand, and their keys and values, which are kept. They come in one
            piece, as one product makes them: to take them apart would be a copy each.
        keys: What is kept, shape ``(R, H, L, D)``; its first ``index`` keys are seen.
        values: The same of values.
        index: Position of the rows, shape ``(1,)``.
        bias_J1HP: What is added to scores; one for all layers, or one for each, worked out at once.
        layer: The layer.
        scale: Factor of scores.
    """
    from .attend_row_kernel import launch  # noqa: PLC0415  # Triton is of the extra gpu

    q_RHD, k_RHD, v_RHD = states_R3HD.unbind(1)
    bias_1HP = None if bias_J1HP is None else bias_J1HP[layer % len(bias_J1HP)]
    return launch(q_RHD, keys, values, bias_1HP, scale, new=(k_RHD, v_RHD, index))


@torch.library.custom_op("taskloom::attend_source", mutates_args=())
def attend_source(
    q_RHD: Tensor, keys: Tensor, values: Tensor, bias_BG1S: Tensor, scale: float
) -> Tensor:
    """Return what each row sees of its document's source, shape ``(R, H, D)``.

    Args:
        q_RHD: Queries, those of a document next to each other.
        keys: Shape ``(B, H, S, D)``.
        values: The same of values.
        bias_BG1S: What is added to scores; the same tensor for all layers, and worked out once.
        scale: Factor of scores.
    """
    from .attend_row_kernel import launch  # noqa: PLC0415  # Triton is of the extra gpu

    return launch(q_RHD, keys, values, bias_BG1S[:, :, 0], scale)


@attend_target.register_fake
def _(states_R3HD: Tensor, *_: object) -> Tensor:
    return states_R3HD.new_empty(states_R3HD[:, 0].shape)


@attend_source.register_fake
def _(q_RHD: Tensor, *_: object) -> Tensor:
    return q_RHD.new_empty(q_RHD.shape)
