"""Linear layers laid out for the few rows of a step, for decoding on a CPU.

A step streams all weights of the decoder for a few rows, and how they lie decides how fast.

- For one row, a layer with more outputs than inputs is read along its outputs: two thirds of the time, half
  where it is a table of ids.
- The weights lie in one piece of memory, in large pages where Linux gives them: nine tenths of the time.
- For some rows, weights lie in the blocks of oneDNN: three quarters of the time of a library that lays the
  matrix out anew for every product.

Blocks are a second copy of the weights. A layer makes its own when it first has so many rows, so whoever writes
one target at a time has none. Sums are taken in another order: results differ by rounding.

Shape letters: N = states, C = channels that come in, O = channels that come out.
"""

from __future__ import annotations

from typing import Any, Final, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..product import Linear, multiply

FEWEST: Final = 3
"""Rows from which blocks are faster; of two, they are as fast as what takes no memory."""

MOST: Final = 32
"""Rows up to which they are; of more, a library lays the matrix out in no time."""

_LINE_BYTES = 64


class FewRowsLinear(Linear):
    """A linear layer for reading: its parameters are those of another, and must not change from then on."""

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None = None, room: Tensor | None = None
    ) -> None:
        """Lay out ``weight``, shape ``(O, C)``; whoever shares it finds it there.

        Args:
            weight: The weight.
            bias: The offset.
            room: Where it is put, as many numbers; memory of its own by default.
        """
        num_outputs, num_inputs = weight.shape
        super().__init__(num_inputs, num_outputs, bias=bias is not None, device="meta")
        is_turned = num_outputs > num_inputs
        room = _make_room(weight.numel(), weight.dtype) if room is None else room
        laid = room.view(num_inputs, num_outputs).t() if is_turned else room.view_as(weight)
        with torch.no_grad():
            weight.data = laid.copy_(weight)
        self.weight, self.bias = weight, bias
        self._blocks: Tensor | None = None

    @classmethod
    def of(cls, layer: nn.Linear, room: Tensor | None = None) -> Self:
        """Return what does the same as ``layer``."""
        weight, bias = (cast("Any", each) for each in (layer.weight, layer.bias))
        made = cls(weight, bias, room)
        return made.train(layer.training)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: blocks cannot be, and are made anew."""
        return {**self.__dict__, "_blocks": None}

    @property
    def has_blocks(self) -> bool:
        """Whether there is a second copy of the weight."""
        return self._blocks is not None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in torch
        """Return the layer's result."""
        if not _suit_blocks(input):
            return multiply(input, self.weight, self.bias)
        # What torch's own compiler does with weights that are frozen; nothing public has it (torch 2.13).
        mkldnn: Any = torch.ops.mkldnn
        if self._blocks is None:
            whole = self.weight.detach().contiguous()
            self._blocks = mkldnn._reorder_linear_weight(whole, MOST)  # noqa: SLF001
        product = mkldnn._linear_pointwise  # noqa: SLF001
        return product(input, self._blocks, self.bias, "none", [], "none")


def lay_out(module: nn.Module) -> None:
    """Lay out all linear layers of ``module``, on a CPU. It is for reading from then on."""
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    for dtype in {child.weight.dtype for _, _, child in found}:
        own = [each for each in found if each[2].weight.dtype is dtype]
        sizes = [child.weight.numel() for _, _, child in own]
        rooms = _make_room(sum(sizes), dtype).split(sizes)
        for (parent, name, child), room in zip(own, rooms, strict=True):
            setattr(parent, name, FewRowsLinear.of(child, room))


def _suit_blocks(x_NC: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    return (
        FEWEST <= x_NC.shape[:-1].numel() <= MOST
        and x_NC.dtype is torch.float32
        and x_NC.device.type == "cpu"
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
    )


def _make_room(size: int, dtype: torch.dtype) -> Tensor:
    """Return memory for ``size`` numbers."""
    # NumPy asks for large pages, torch does not unless its environment says so.
    raw = np.empty(size * dtype.itemsize + _LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % _LINE_BYTES
    return torch.from_numpy(raw[start : start + size * dtype.itemsize]).view(dtype)
