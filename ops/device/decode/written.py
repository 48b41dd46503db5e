"""What was written for each document, the best first.

Shape letters: B = documents, K = targets that were followed, N = targets that are returned, L = longest target.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ....graph.vocabulary import PAD
from .task import Task


class Written(NamedTuple):
    """What was written.

    Attributes:
        ids_BNL: Ids, those given and the end of sequence included, then padding.
        id_log_probs_BNL: Log probability of each id, among those allowed; 0 for those given, and for padding.
        log_probs_BN: Their sum.
        scores_BN: What targets are compared by: the sum over the number of ids to the power of the length
            penalty; minus infinity where fewer than ``N`` targets are allowed.
        is_finished_BN: Whether the end of sequence was reached.
    """

    ids_BNL: Tensor
    id_log_probs_BNL: Tensor
    log_probs_BN: Tensor
    scores_BN: Tensor
    is_finished_BN: Tensor


def score(log_probs: Tensor, lengths: Tensor, length_penalty: float) -> Tensor:
    """Return what targets are compared by, of the sums of log probabilities and the numbers of ids."""
    return log_probs / lengths.clamp(min=1).to(log_probs.dtype) ** length_penalty


def rank(ids_BKL: Tensor, id_log_probs_BKL: Tensor, is_finished_BK: Tensor, task: Task) -> Written:
    """Return the best targets of each document; those that are finished go before those that are not."""
    log_probs_BK = id_log_probs_BKL.sum(-1)
    begins_B1 = task.begins(1)[:, None]
    lengths_BK = (ids_BKL != PAD).sum(-1) - begins_B1
    scores_BK = score(log_probs_BK, lengths_BK, task.search.length_penalty)
    order_BK = scores_BK.argsort(dim=-1, descending=True, stable=True)
    is_open_BK = (~is_finished_BK).long().gather(1, order_BK)
    order_BN = order_BK.gather(1, is_open_BK.argsort(dim=-1, stable=True))[:, : task.search.n_best]
    order_BNL = order_BN[..., None].expand(-1, -1, ids_BKL.shape[-1])
    return Written(
        ids_BKL.gather(1, order_BNL),
        id_log_probs_BKL.gather(1, order_BNL),
        log_probs_BK.gather(1, order_BN),
        scores_BK.gather(1, order_BN),
        is_finished_BK.gather(1, order_BN),
    )
