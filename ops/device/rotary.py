"""Rotary positions: queries and keys turned by an angle that grows with the position.

The score of a query and a key then depends on the difference of their positions alone. Positions
count within a document, so a document is the same wherever it lies in the stream.

Shape letters: N = tokens, H = heads, D = head size, E = half of it.

Source: RoFormer, section 3.2 (arXiv:2104.09864); halves rather than neighbours are paired, as in
GPT-NeoX.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LONGEST_WAVE = 10_000.0


class Rotary(NamedTuple):
    """Cosine and sine of each token's angles, computed once per stream."""

    cos_N1E: Tensor
    sin_N1E: Tensor


def plan_rotary(positions_N: Tensor, head_size: int) -> Rotary:
    """Return the angles of ``positions_N`` (integers) for heads of ``head_size``, which is even."""
    exponent_E = torch.arange(0, head_size, 2, device=positions_N.device) / head_size
    angle_NE = positions_N.float()[:, None] * LONGEST_WAVE**-exponent_E
    return Rotary(angle_NE.cos()[:, None], angle_NE.sin()[:, None])


def rotate(x_NHD: Tensor, rotary: Rotary) -> Tensor:
    """Turn every head of ``x_NHD`` by its token's angles."""
    first, second = x_NHD.chunk(2, dim=-1)
    cos, sin = rotary
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x_NHD.dtype)
