"""Signals: how strong a gradient each loss sends into what all losses share.

A loss is charged on states that the stacks have made, and every position belongs to one loss alone. So the
gradient of a loss at these states is seen apart from those of others in the one backward pass that is taken
anyway. Its norm is told in place of that at the parameters, which would take a backward pass for each task:
both are joined by the same stacks, and what the states get bounds what the parameters get.

Source: MGDA-UB, arXiv:1810.04650, which balances tasks by gradients at shared representations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_STATES = "hidden"
"""The port of states, in every op that charges."""


@dataclass(frozen=True, slots=True)
class Signals:
    """Sums over a backward pass, on the device: nothing waits for it.

    Attributes:
        squares: Sum of the squares of the gradient at the states that each loss is charged on, by loss id.
    """

    squares: Tensor

    def watch(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs of an op that charges, whose states tell their gradient."""
        states = inputs[_STATES]
        if not states.requires_grad:
            return inputs
        # Of its own: others may read the same states, and their gradients are no part of this one.
        own = states.view_as(states)
        ids, ranges = inputs["loss_ids"], inputs.get("ranges")
        own.register_hook(lambda grad: self._add(grad, ids, ranges))
        return {**inputs, _STATES: own}

    def _add(self, grad: Tensor, ids: Tensor, ranges: Tensor | None) -> None:
        """Add the gradient at states of shape ``(N, C)``.

        Args:
            grad: The gradient.
            ids: Loss of each position; of each pair if there are ranges, and -1 where a pair is unused.
            ranges: Start and end of the halves of each pair, shape ``(P, 2, 2)``.
        """
        with torch.no_grad():
            squares_N = grad.float().square().sum(1)
            if ranges is None:
                self.squares.index_add_(0, ids, squares_N)
                return
            place_N = torch.arange(len(squares_N), device=grad.device)
            is_in_P2N = (place_N >= ranges[..., :1]) & (place_N < ranges[..., 1:])
            squares_P = (is_in_P2N * squares_N).sum((1, 2))
            self.squares.index_add_(0, ids.clamp(min=0), squares_P * (ids >= 0))
