"""What the passes of one call of attention are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Call(NamedTuple):
    """One call, in the order of the op's arguments.

    Attributes:
        q_NHD: Queries.
        k_MHD: Keys.
        v_MHD: Values.
        table_HR: Biases per head, where there are any, in a type that sums may be taken in.
        codes_3N: Base less code, code and slot of each token, where there is a table; int32.
        runs_T: Whether codes run on throughout each tile, 1 or 0; where there is a table, and spans, int32.
        ranges_2N: First key that each query sees, and one past the last; int32.
        keys_2T: The same for each tile of queries; with ``queries_2S`` the spans of a plan that has any.
        queries_2S: First query that sees any key of each tile of keys, and one past the last.
        scale: Factor of the scores.
        tile: Queries of a tile, keys of a tile.
    """

    q_NHD: Tensor
    k_MHD: Tensor
    v_MHD: Tensor
    table_HR: Tensor | None
    codes_3N: Tensor | None
    runs_T: Tensor | None
    ranges_2N: Tensor
    keys_2T: Tensor | None
    queries_2S: Tensor | None
    scale: float
    tile: int


class Passes(NamedTuple):
    """Code that computes attention.

    Attributes:
        forward: Returns what queries see, and the log of each one's sum of exponentials, shape
            ``(H, N)``. It is plus infinity for queries that see nothing, so that their weights,
            computed again as ``exp(score - log)``, are 0.
        backward: Takes a call, the gradient of what queries see, and both results; returns the
            gradients of queries, keys, values and table. That of no table has size 0.
    """

    forward: Callable[[Call], tuple[Tensor, Tensor]]
    backward: Callable[[Call, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def precise(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums of values of ``dtype`` are taken."""
    return torch.promote_types(dtype, torch.float32)
