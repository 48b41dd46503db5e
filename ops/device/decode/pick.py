"""Which of all that the beams could write next are followed, and which of them are finished.

Of twice as many candidates as there are beams, the ends among the best half finish a target; the best of the
others are followed.

Shape letters: B = groups of beams, each compared within itself, K = beams of a group, X = options of a beam,
Y = candidates.

Source: fairseq, ``search.py`` and ``sequence_generator.py``, which OFASys has.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Picked(NamedTuple):
    """What is followed, and what is finished.

    Attributes:
        parents_BK: Beam that each goes on from.
        options_BK: Option that it takes.
        sums_BK: Log probability of all its ids; minus infinity where nothing was left to follow.
        is_end_BK: Which of the best candidates are ends.
        end_parents_BK: Beam that each of these ends.
        end_options_BK: The option that is its end.
    """

    parents_BK: Tensor
    options_BK: Tensor
    sums_BK: Tensor
    is_end_BK: Tensor
    end_parents_BK: Tensor
    end_options_BK: Tensor


def pick(
    sums_BK: Tensor, log_probs_BKX: Tensor, is_end_BKX: Tensor, costs_BKX: Tensor | None = None
) -> Picked:
    """Return what is followed, the best first.

    Args:
        sums_BK: Log probability of all ids of each beam.
        log_probs_BKX: Log probability of each option.
        is_end_BKX: Which options end a target.
        costs_BKX: What options cost, in the comparison alone.
    """
    num_beams, num_options = log_probs_BKX.shape[1:]
    sums_BJ = (sums_BK[..., None] + log_probs_BKX).flatten(1)
    wanted_BJ = sums_BJ if costs_BKX is None else sums_BJ - costs_BKX.flatten(1)
    found_BY = wanted_BJ.topk(min(2 * num_beams, wanted_BJ.shape[1]), dim=1).indices
    parents_BY, options_BY = found_BY // num_options, found_BY % num_options
    sums_BY = sums_BJ.gather(1, found_BY)
    is_end_BY = is_end_BKX.expand(log_probs_BKX.shape).flatten(1).gather(1, found_BY)
    is_end_BY &= sums_BY > -torch.inf
    # Ends last, everything else in order: a stable sort of two values.
    order_BK = is_end_BY.long().argsort(dim=1, stable=True)[:, :num_beams]
    is_spent_BK = is_end_BY.gather(1, order_BK)
    best = slice(num_beams)
    return Picked(
        parents_BY.gather(1, order_BK),
        options_BY.gather(1, order_BK),
        sums_BY.gather(1, order_BK).masked_fill(is_spent_BK, -torch.inf),
        is_end_BY[:, best],
        parents_BY[:, best],
        options_BY[:, best],
    )
