"""A decoder part by part, so that one loop writes with any of them.

What attention sees is not the decoder's business here: between `Stack.project` and `Stack.add` the caller
attends to what it has kept. Everything that follows from positions alone is computed once, for all positions.

Shape letters: N = tokens at hand, A = keys that each may see, L = positions, M = tokens of the source's stream,
C = channels, H = heads, D = head size, J = layers, or 1 for all, V = ids.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..embedding import TokenTable


class Sizes(NamedTuple):
    """Sizes of attention.

    Attributes:
        num_layers: Layers.
        num_heads: ``H``.
        size: ``D``.
        scale: Factor of the scores.
    """

    num_layers: int
    num_heads: int
    size: int
    scale: float


class Stack(Protocol):
    """What writing needs of a decoder in evaluation mode, and of the table of its ids."""

    @property
    def sizes(self) -> Sizes:
        """Sizes of attention."""
        ...

    @property
    def weight_VC(self) -> Tensor:
        """The table that scores."""
        ...

    def place(self, max_length: int) -> Any:
        """Return what follows from each of ``max_length`` positions.

        Raises:
            PlanError: The decoder has fewer positions.
        """
        ...

    def enter(self, ids_N: Tensor, positions_N: Tensor, places: Any) -> tuple[Tensor, Any]:
        """Return the states of ids as the first layer reads them, and what follows from ids and positions.

        Args:
            ids_N: The ids.
            positions_N: Position of each, or one for all.
            places: What `place` returned.
        """
        ...

    def project(self, layer: int, x_NC: Tensor, at: Any) -> Tensor:
        """Return queries, keys and values, in one piece of shape ``(N, 3, H, D)``."""
        ...

    def biases(self, positions_N: Tensor, key_positions_NA: Tensor, places: Any) -> Tensor | None:
        """Return what positions add to scores, if anything, shape ``(J, N, H, A)``.

        Args:
            positions_N: Position of each token, or one for all.
            key_positions_NA: Positions of the keys that each may see.
            places: What `place` returned.
        """
        ...

    def add(self, layer: int, x_NC: Tensor, seen_NHD: Tensor) -> Tensor:
        """Return the states after attention to the target."""
        ...

    def ask(self, layer: int, x_NC: Tensor, at: Any) -> Tensor:
        """Return queries to the source, shape ``(N, H, D)``."""
        ...

    def ask_places(self, positions_N: Tensor, places: Any) -> Tensor | None:
        """Return what positions ask of those of the source in all layers, shape ``(N, H, D)``, if anything."""
        ...

    def remember(self, layer: int, memory_MC: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the source, shape ``(M, H, D)`` each."""
        ...

    def remember_places(self, positions_MC: Tensor | None) -> Tensor | None:
        """Return keys of the source's positions in all layers, shape ``(M, H, D)``, if they are asked."""
        ...

    def add_read(self, layer: int, x_NC: Tensor, read_NHD: Tensor) -> Tensor:
        """Return the states after attention to the source."""
        ...

    def feed(self, layer: int, x_NC: Tensor, at: Any) -> Tensor:
        """Return the states after the feed-forward part."""
        ...

    def leave(self, x_NC: Tensor) -> Tensor:
        """Return what is scored."""
        ...

    def score(self, hidden_NC: Tensor) -> Tensor:
        """Return the score of every id, shape ``(N, V)``."""
        ...


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Attend over the last but one axis of ``k`` and ``v``; heads and documents come before it."""
    bias = None if bias is None else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def score_ids(hidden_NC: Tensor, table: TokenTable, head: nn.Module | None) -> Tensor:
    """Return the score of every id, by ``head`` where there is one in place of the table."""
    return table.score(hidden_NC) if head is None else head(hidden_NC)


def hide(is_hidden: Tensor) -> Tensor:
    """Return what is added to scores: minus infinity for keys that are hidden, 0 for others."""
    zeros = torch.zeros(is_hidden.shape, device=is_hidden.device)
    return zeros.masked_fill(is_hidden, -torch.inf)
