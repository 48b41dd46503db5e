"""Ids drawn from their probabilities, the same for a document wherever it stands.

What is drawn follows from a number in [0, 1) that is a hash of the seed, the document, the draw and the step,
and of nothing else: no generator has a state that other documents of a batch would move.

Shape letters: R = rows, X = options.

Source: nucleus sampling, arXiv:1904.09751; the hash is SplitMix64, OOPSLA 2014, doi 10.1145/2660193.2660195.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(
    scores_RX: Tensor, numbers_R: Tensor, *, top_k: int, top_p: float, temperature: float
) -> Tensor:
    """Return one option for each row, drawn from those that are kept.

    Args:
        scores_RX: Log probabilities, or what differs from them by one number for each row.
        numbers_R: Where in the distribution to draw, in [0, 1).
        top_k: Options that are kept, the likeliest; 0 for all.
        top_p: Share of the probability that is kept, the likeliest options first.
        temperature: 0 takes the likeliest; anything else is in the probabilities.
    """
    if temperature == 0:
        return scores_RX.argmax(-1)
    num_kept = min(top_k, scores_RX.shape[1]) if top_k else scores_RX.shape[1]
    kept_RK, options_RK = scores_RX.topk(num_kept, dim=-1)
    shares_RK = kept_RK.double().softmax(-1)
    sums_RK = shares_RK.cumsum(-1)
    if top_p < 1:
        # An option is kept if those before it have less than the share; so the first one always is.
        is_out_RK = sums_RK - shares_RK >= top_p
        shares_RK = shares_RK.masked_fill(is_out_RK, 0.0)
        sums_RK = shares_RK.cumsum(-1)
    goal_R1 = numbers_R[:, None] * sums_RK[:, -1:]
    place_R1 = torch.searchsorted(sums_RK, goal_R1, right=True)
    # Rounding must not lead past the last one that is kept.
    last_R1 = (shares_RK > 0).sum(-1, keepdim=True) - 1
    return options_RK.gather(1, place_R1.minimum(last_R1).clamp(min=0))[:, 0]


def numbers(seed: int, keys_R: Tensor, index: Tensor) -> Tensor:
    """Return a number in [0, 1) for each row.

    Args:
        seed: The same numbers come of the same seed.
        keys_R: What tells rows apart, int64.
        index: Step, shape ``(1,)``; the same row gets another number at another step.
    """
    mixed_R = _mix(_mix(keys_R + _signed(seed * _GOLDEN)) + (index + 1) * _signed(_GOLDEN))
    return (mixed_R >> 11 & (2**53 - 1)).double() * 2**-53


def split_keys(keys_B: Tensor, num: int) -> Tensor:
    """Return ``num`` keys for each key, one after another."""
    number_N = torch.arange(num, device=keys_B.device)
    return _mix(keys_B[:, None] + number_N * _signed(_GOLDEN)).flatten()


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    # Shifts of signed numbers bring the sign along.
    return x >> bits & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


_GOLDEN = 0x9E3779B97F4A7C15
