"""The product of states with a matrix of weights, whatever the number of states.

Compiled for a GPU, a single state is multiplied and summed: the compiler puts what comes before and after into
the same kernel, which streams the matrix at the speed of memory. Libraries take two to four times as long for
matrices of some hundred rows. Tall ones, such as a table of ids, they stream faster, if they are given states
enough for their tiles.

Shape letters: N = states, C = channels that come in, O = channels that come out.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TALL: Final = 1 << 14
"""Rows of a matrix from which a library's product is the faster one."""


class Linear(nn.Linear):
    """A linear layer that multiplies so."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in torch
        """Return the layer's result."""
        return multiply(input, self.weight, self.bias)

    def whole_weight(self) -> Tensor:
        """Return the weight that stands for the layer."""
        return self.weight


def multiply(x_NC: Tensor, weight_OC: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return the product, shape ``(N, O)``, plus ``bias_O``; sums are in single precision at least."""
    if not (torch.compiler.is_compiling() and x_NC.is_cuda and len(x_NC) == 1):
        return F.linear(x_NC, weight_OC, bias_O)
    if len(weight_OC) >= TALL:
        return multiply_tall(x_NC, weight_OC, bias_O)
    return multiply_one(x_NC, weight_OC, bias_O)


def multiply_tall(x_1C: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return the product of one state, as the first of some equal ones that fill a tile."""
    return F.linear(x_1C.repeat(8, 1), weight_OC, bias_O)[:1]


def multiply_one(x_1C: Tensor, weight_OC: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return the product of one state, which is no part of something larger, as a sum."""
    sums = torch.promote_types(x_1C.dtype, torch.float32)
    # Such a view puts the state into memory: else all rows of the matrix would work it out anew.
    x_1C = x_1C.as_strided(x_1C.shape, x_1C.stride())
    out_O = (weight_OC.to(sums) * x_1C.to(sums)).sum(-1)
    if bias_O is not None:
        out_O = out_O + bias_O.to(sums)
    return out_O.to(x_1C.dtype)[None]
