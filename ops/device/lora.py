"""Low-rank pairs: a linear layer that stays as it is, and a small product beside it that learns.

The layer's weight and offset keep their names, so what was learned without pairs fits, and pairs fold into it:
``weight + scale * up @ down`` is the layer that both are together.

Shape letters: N = states, C = channels that come in, O = channels that come out, R = rank.

Source: LoRA, arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn

from .product import Linear, multiply

DOWN: Final = "lora_down_RC"
UP: Final = "lora_up_OR"
SCALE: Final = "lora_scale"
"""Names of what is beside a layer's weight."""


class LoraLinear(Linear):
    """A linear layer with a pair beside it. It begins as the layer alone."""

    lora_scale: Tensor

    def __init__(self, layer: nn.Linear, *, rank: int, alpha: float) -> None:
        """Put a pair beside ``layer``, whose parameters are shared.

        Args:
            layer: The layer.
            rank: ``R``.
            alpha: What the pair adds is multiplied by this over the rank.
        """
        bias = cast("nn.Parameter | None", layer.bias)
        super().__init__(
            layer.in_features, layer.out_features, bias=bias is not None, device="meta"
        )
        self.weight, self.bias = layer.weight, bias
        down_RC = layer.weight.new_empty(rank, layer.in_features)
        # As a linear layer of torch begins.
        nn.init.kaiming_uniform_(down_RC, a=5**0.5)
        self.lora_down_RC = nn.Parameter(down_RC)
        self.lora_up_OR = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        self.register_buffer(SCALE, layer.weight.new_full((), alpha / rank))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in torch
        """Return the layer's result, and the pair's."""
        beside_NO = multiply(multiply(input, self.lora_down_RC), self.lora_up_OR)
        return multiply(input, self.weight, self.bias) + beside_NO * self.lora_scale

    def whole_weight(self) -> Tensor:
        """Return the weight that layer and pair are together."""
        return _fold(self.weight, self.lora_up_OR, self.lora_down_RC, self.lora_scale)


def fold_pairs(tensors: Mapping[str, Tensor], *, kept: Collection[str] = ()) -> dict[str, Tensor]:
    """Return ``tensors`` by name, pairs folded into the weights they are beside.

    Args:
        tensors: By name.
        kept: Names of what stays a pair.
    """
    folded = dict(tensors)
    for name in tensors:
        if not name.endswith(f".{UP}") or name in kept:
            continue
        layer = name.removesuffix(UP)
        up, down, scale = (folded.pop(layer + part) for part in (UP, DOWN, SCALE))
        folded[f"{layer}weight"] = _fold(folded[f"{layer}weight"], up, down, scale)
    return folded


def _fold(weight_OC: Tensor, up_OR: Tensor, down_RC: Tensor, scale: Tensor) -> Tensor:
    return torch.addmm(weight_OC, up_OR * scale, down_RC)
