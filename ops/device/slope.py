"""Slopes: what the loss of a row gains with each of its scores.

A label's loss is ``norm - right * score - each * total``: the log of the sum of the exponentials of all scores
of its row, its own score, and the sum of all, where ``right + each * K`` is 1. On a GPU a kernel makes slopes
of scores in their place, in the type they have (`slope_kernel`); elsewhere log probabilities are held, in
single precision at least.

Shape letters: R = rows, C = channels, K = ids of the choice.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from .attention.triton_passes import has_triton

LINE: Final = 64
"""Scores of a row lie at a multiple of so many on a GPU."""


def charge_rows(
    hidden_RC: Tensor,
    weight_KC: Tensor,
    place_R: Tensor,
    is_inside_R: Tensor,
    each: float,
    *,
    teaches: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the losses of rows, in single precision at least, and the slopes of their scores, if wanted.

    Args:
        hidden_RC: States.
        weight_KC: Vectors of the ids of the choice, one at least.
        place_R: Where the label of each row stands among them.
        is_inside_R: Whether it does; otherwise the loss is infinite.
        each: Weight of the log probability of every id; the label's has the rest.
        teaches: Whether slopes are wanted.
    """
    is_fast = hidden_RC.is_cuda and hidden_RC.dtype is not torch.float64 and has_triton()
    charge = charge_by_kernel if is_fast else _charge_plainly
    return charge(hidden_RC, weight_KC, place_R, is_inside_R, each, teaches=teaches)


def charge_by_kernel(
    hidden_RC: Tensor,
    weight_KC: Tensor,
    place_R: Tensor,
    is_inside_R: Tensor,
    each: float,
    *,
    teaches: bool,
) -> tuple[Tensor, Tensor | None]:
    """Do so by the kernel of Triton, on a GPU or interpreted."""
    from .slope_kernel import slope_rows  # noqa: PLC0415  # Triton is of the extra gpu

    # Fast matrix products of a GPU neither read nor write rows that begin elsewhere, and few vocabularies have
    # such a size.
    lines = hidden_RC.new_empty(len(hidden_RC), -(-len(weight_KC) // LINE) * LINE)
    scores_RK = torch.mm(hidden_RC, weight_KC.T, out=lines[:, : len(weight_KC)])
    losses_R = slope_rows(scores_RK, place_R.where(is_inside_R, -1), each, teaches=teaches)
    return losses_R, scores_RK if teaches else None


def _charge_plainly(
    hidden_RC: Tensor,
    weight_KC: Tensor,
    place_R: Tensor,
    is_inside_R: Tensor,
    each: float,
    *,
    teaches: bool,
) -> tuple[Tensor, Tensor | None]:
    right = 1 - each * len(weight_KC)
    sums = torch.promote_types(hidden_RC.dtype, torch.float32)
    logs_RK = (hidden_RC @ weight_KC.T).log_softmax(-1, dtype=sums)
    label_R1 = place_R[:, None]
    losses_R = -right * logs_RK.gather(1, label_R1)[:, 0]
    if each:
        losses_R -= each * logs_RK.sum(1)
    losses_R = losses_R.where(is_inside_R, torch.inf)
    if not teaches:
        return losses_R, None
    slopes_RK = logs_RK.exp_()
    if each:
        slopes_RK -= each
    share_R1 = is_inside_R[:, None].to(slopes_RK.dtype) * -right
    return losses_R, slopes_RK.scatter_add_(1, label_R1, share_R1).to(hidden_RC.dtype)
