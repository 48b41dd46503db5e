"""What a program knows of a device op.

A device op in a graph is plain data, as every op is. Its parameters live in the module it builds,
once per *scope*: nodes of equal scope, whether of one op or of two that build the same module,
share it. So a token table that embeds and scores is one module with two ops.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from ...graph.op import Op


class DeviceOp(Op, Protocol):
    """An op that computes on tensors."""

    def module(self) -> nn.Module | None:
        """Build the parameters from torch's global random state; ``None`` without any."""
        ...

    def __call__(self, *module: Any, **inputs: Any) -> Tensor | tuple[Tensor, ...]:
        """Compute the outputs of the signature, in its order.

        Args:
            module: What `module` built for the node's scope, alone.
            inputs: Tensors by the names of the signature's ports.
        """
        ...
