"""Slopes: what the loss of a row gains with each of its scores.

A label's loss is ``norm - right * score - each * total``: the log of the sum of the exponentials of all scores
of its row, its own score, and the sum of all, where ``right + each * K`` is 1. On a GPU a kernel makes slopes
of scores in their place, in the type they have (`slope_kernel`); elsewhere log probabilities are held, in
single precision at least.

Shape letters: R = rows, C = channels, K = ids of the choice, and what they are filled up with.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention.triton_passes import suits_triton

LINE: Final = 64
"""Ids that a choice is filled up to a multiple of on a GPU."""


def lay_out(weight_KC: Tensor) -> Tensor:
    """Return the vectors of a choice as `charge_rows` reads them, zeros behind them where that is faster."""
    if not suits_triton(weight_KC):
        return weight_KC
    # Fast matrix products want sizes that few vocabularies have: with an odd one they take twice as long.
    return F.pad(weight_KC, (0, 0, 0, -len(weight_KC) % LINE))


def charge_rows(
    hidden_RC: Tensor,
    weight_KC: Tensor,
    num_ids: int,
    place_R: Tensor,
    is_inside_R: Tensor,
    each: float,
    *,
    teaches: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the losses of rows, in single precision at least, and the slopes of their scores, if wanted.

    Args:
        hidden_RC: States.
        weight_KC: Vectors of the ids of the choice, one at least, as `lay_out` returns them.
        num_ids: How many ids there are. What is behind them has slopes of 0.
        place_R: Where the label of each row stands among them.
        is_inside_R: Whether it does; otherwise the loss is infinite.
        each: Weight of the log probability of every id; the label's has the rest.
        teaches: Whether slopes are wanted.
    """
    charge = charge_by_kernel if suits_triton(hidden_RC) else _charge_plainly
    return charge(hidden_RC, weight_KC, num_ids, place_R, is_inside_R, each, teaches=teaches)


def charge_by_kernel(
    hidden_RC: Tensor,
    weight_KC: Tensor,
    num_ids: int,
    place_R: Tensor,
    is_inside_R: Tensor,
    each: float,
    *,
    teaches: bool,
) -> tuple[Tensor, Tensor | None]:
    """Do so by the kernel of Triton, on a GPU or interpreted."""
    from .slope_kernel import slope_rows  # noqa: PLC0415  # Triton is of the extra gpu

    scores_RK = hidden_RC @ weight_KC.T
    place_R = place_R.where(is_inside_R, -1)
    losses_R = slope_rows(scores_RK[:, :num_ids], place_R, each, teaches=teaches)
    return losses_R, scores_RK if teaches else None


def _charge_plainly(
    hidden_RC: Tensor,
    weight_KC: Tensor,
    num_ids: int,
    place_R: Tensor,
    is_inside_R: Tensor,
    each: float,
    *,
    teaches: bool,
) -> tuple[Tensor, Tensor | None]:
    right = 1 - each * num_ids
    sums = torch.promote_types(hidden_RC.dtype, torch.float32)
    # Before the logs are taken: scores in half precision would be held beside both.
    logs_RK = (hidden_RC @ weight_KC.T).to(sums).log_softmax(-1)
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
