"""Drop path: now and then a part of a layer adds nothing to a document, drawn anew for every document.

Documents share a stream, so a number is drawn for every position, and a token takes that of the first position
it sees, which all tokens of a document share. What adds nothing is computed all the same, since shapes are
static: paths are dropped to learn better, not to save time.

The first layer of a stack drops nothing, the last one at the whole rate; between them it rises evenly.

Shape letters: N = tokens of the stream, C = channels, L = layers, S = parts of a layer that add to its state.

Source: stochastic depth, arXiv:1603.09382; rates from 0 on, as in OFASys, ``model/transformer.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Draws for a whole stack. It has no parameters."""

    def __init__(self, rate: float, *, num_layers: int, num_parts: int) -> None:
        """Set the rates.

        Args:
            rate: Chance that a part of the last layer adds nothing, in [0, 1).
            num_layers: ``L``.
            num_parts: ``S``.
        """
        super().__init__()
        self.rate = rate
        self.num_layers = num_layers
        self.num_parts = num_parts

    def forward(self, lo_N: Tensor) -> tuple[Tensor | None, ...]:
        """Return factors for each layer, shape ``(S, N, 1)``: 0, or what makes up for zeros elsewhere.

        In evaluation and at rate 0 there are none, and no random number is drawn.

        Args:
            lo_N: First position that each token sees.
        """
        if not (self.training and self.rate):
            return (None,) * self.num_layers
        first = 0.0 if self.num_layers > 1 else self.rate  # a single layer is the last one
        # Made there rather than copied: the host would wait for a copy.
        rates_L = torch.linspace(first, self.rate, self.num_layers, device=lo_N.device)
        keep_L11 = 1 - rates_L[:, None, None]
        shape = (self.num_layers, self.num_parts, len(lo_N))
        drawn_LSN = torch.rand(shape, device=lo_N.device)[..., lo_N.long()]
        factors_LSN = (drawn_LSN < keep_L11) / keep_L11
        return factors_LSN[..., None].unbind()


def thin(added_NC: Tensor, factors_SN1: Tensor | None, part: int) -> Tensor:
    """Return what ``part`` of a layer adds where paths are dropped; factors are in single precision."""
    if factors_SN1 is None:
        return added_NC
    return (added_NC * factors_SN1[part]).to(added_NC.dtype)
