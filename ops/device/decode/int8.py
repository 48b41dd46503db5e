"""Linear layers of a decoder in eight bits, for decoding on a CPU.

A step streams all weights of the decoder for a few rows, so what it costs is the bytes of the weights. They
are kept as int8 with a factor for each output; what comes in is quantised as it comes, with one factor for
all rows. Results of one layer differ by 1 to 2 %, scores of the whole relative stack by 3.3 %, and a row's a
little with the rows beside it.
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from ....graph.errors import PlanError

_LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer with weights in eight bits, without gradient."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise ``weight``, one factor for each output.

        Raises:
            PlanError: The weights are not on a CPU, or not in single precision.
        """
        super().__init__()
        if weight.device.type != "cpu" or weight.dtype is not torch.float32:
            message = f"int8 weights are made of single precision on a CPU, not of {weight.dtype}"
            raise PlanError.of("T0246", f"{message} on {weight.device.type}", "leave out int8")
        weight = weight.detach()
        factors = (weight.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # Such tensors are to go (pytorch#184982), but torch 2.13 has no other way into the kernel; kernels
            # that take plain int8 need three times as long on a CPU without VNNI.
            warnings.simplefilter("ignore", UserWarning)
            whole = torch.quantize_per_channel(weight, factors.double(), zeros, 0, torch.qint8)
        bias = None if bias is None else bias.detach()
        self._packed: Any = torch.ops.quantized.linear_prepack(whole, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's result, as near as eight bits come."""
        # One bit less of what comes in: products of two pairs then never overflow 16 bits on any CPU.
        return torch.ops.quantized.linear_dynamic(x, self._packed, True)  # noqa: FBT003 - it has no names


def shrink(module: nn.Module) -> None:
    """Put int8 weights in place of all linear layers of ``module``.

    Raises:
        PlanError: They are not on a CPU, or not in single precision.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                small = Int8Linear(child.weight, cast("Tensor | None", child.bias))
                setattr(parent, name, small)
