"""Gains of heads, multiplied into the layer that reads the heads.

On a GPU a product with a gain is a launch of its own, twice in each layer of a decoder.
"""

from __future__ import annotations

import torch
from torch import nn

from ..relative.layer import CrossAttention, SelfAttention


def fold_gains(module: nn.Module) -> None:
    """Leave no gains in ``module``. It is for reading from then on: what is learned has other names."""
    for part in module.modules():
        if isinstance(part, SelfAttention | CrossAttention) and part.gain_H is not None:
            with torch.no_grad():
                part.out.weight.mul_(part.gain_H.repeat_interleave(part.heads[1]))
            part.gain_H = None
