"""Transformer layers over flat streams.

Each part of a layer normalises a token's state, computes, and adds to it.

Shape letters: N = tokens of the stream at hand, M = tokens of the encoder's, C = channels, H = heads, D = head
size, S = parts of a layer that add to its state.

Source: pre-norm layers, arXiv:2002.04745. Why LayerNorm, without an offset: on CPU it takes a third
of the time of RMSNorm, which has no kernel of its own there (torch 2.13).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionPlan, attend
from .drop_path import thin
from .modality import Route, RoutedFeedForward, feed
from .product import Linear
from .rotary import Rotary, rotate


class LayerShape(NamedTuple):
    """The sizes that all layers of a stack share."""

    width: int
    num_heads: int
    ffn_width: int
    dropout: float
    num_layers: int
    drop_path: float = 0.0
    modalities: tuple[str, ...] = ()


class SelfAttention(nn.Module):
    """Attention of a stream to itself, with rotary positions."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.heads = (shape.num_heads, shape.width // shape.num_heads)
        self.query_key_value = _linear(shape.width, 3 * shape.width)
        self.out = _linear(shape.width, shape.width, num_sums=shape.num_layers)

    def forward(self, x_NC: Tensor, rotary: Rotary, plan: AttentionPlan) -> Tensor:
        """Return what attention adds to ``x_NC``."""
        q_NHD, k_NHD, v_NHD = self._project(x_NC, rotary)
        return self.out(attend(q_NHD, k_NHD, v_NHD, plan).flatten(1))

    def _project(self, x_NC: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        states_N3HD = self.query_key_value(x_NC).unflatten(-1, (3, *self.heads))
        turn_N2HD, v_N1HD = states_N3HD.split((2, 1), dim=1)
        q_NHD, k_NHD = rotate(turn_N2HD.flatten(1, 2), rotary).chunk(2, dim=1)
        return q_NHD, k_NHD, v_N1HD[:, 0]


class CrossAttention(nn.Module):
    """Attention of a target stream to the encoder's."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.heads = (shape.num_heads, shape.width // shape.num_heads)
        self.query = _linear(shape.width, shape.width)
        self.key_value = _linear(shape.width, 2 * shape.width)
        self.out = _linear(shape.width, shape.width, num_sums=shape.num_layers)

    def forward(self, x_NC: Tensor, memory_MC: Tensor, plan: AttentionPlan) -> Tensor:
        """Return what attention adds to ``x_NC``."""
        q_NHD = self.query(x_NC).unflatten(-1, self.heads)
        k_MHD, v_MHD = self.remember(memory_MC).unbind(1)
        return self.out(attend(q_NHD, k_MHD, v_MHD, plan).flatten(1))

    def remember(self, memory_MC: Tensor) -> Tensor:
        """Return keys and values of the memory, shape ``(M, 2, H, D)``."""
        return self.key_value(memory_MC).unflatten(-1, (2, *self.heads))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.up = _linear(shape.width, shape.ffn_width)
        self.down = _linear(shape.ffn_width, shape.width, num_sums=shape.num_layers)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return what the two layers add to ``x_NC``."""
        return self.down(F.gelu(self.up(x_NC)))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.attention_norm = layer_norm(shape.width)
        self.attention = SelfAttention(shape)
        self.ffn_norm = layer_norm(shape.width)
        self.ffn = _feed_forward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self,
        x_NC: Tensor,
        rotary: Rotary,
        plan: AttentionPlan,
        factors_SN1: Tensor | None = None,
        route: Route | None = None,
    ) -> Tensor:
        """Return the tokens' next state; paths are dropped where ``factors_SN1`` are 0."""
        added_NC = self.dropout(self.attention(self.attention_norm(x_NC), rotary, plan))
        x_NC = x_NC + thin(added_NC, factors_SN1, 0)
        added_NC = self.dropout(feed(self.ffn, self.ffn_norm(x_NC), route))
        return x_NC + thin(added_NC, factors_SN1, 1)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the source, then feed-forward."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.attention_norm = layer_norm(shape.width)
        self.attention = SelfAttention(shape)
        self.cross_norm = layer_norm(shape.width)
        self.cross = CrossAttention(shape)
        self.ffn_norm = layer_norm(shape.width)
        self.ffn = _feed_forward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self,
        x_NC: Tensor,
        rotary: Rotary,
        plan: AttentionPlan,
        memory_MC: Tensor,
        cross_plan: AttentionPlan,
        factors_SN1: Tensor | None = None,
        route: Route | None = None,
    ) -> Tensor:
        """Return the tokens' next state; paths are dropped where ``factors_SN1`` are 0."""
        added_NC = self.dropout(self.attention(self.attention_norm(x_NC), rotary, plan))
        x_NC = x_NC + thin(added_NC, factors_SN1, 0)
        read_NC = self.dropout(self.cross(self.cross_norm(x_NC), memory_MC, cross_plan))
        x_NC = x_NC + thin(read_NC, factors_SN1, 1)
        added_NC = self.dropout(feed(self.ffn, self.ffn_norm(x_NC), route))
        return x_NC + thin(added_NC, factors_SN1, 2)


def layer_norm(width: int) -> nn.LayerNorm:
    """Return a LayerNorm with a scale and no offset."""
    return nn.LayerNorm(width, bias=False)


def _feed_forward(shape: LayerShape) -> nn.Module:
    if not shape.modalities:
        return FeedForward(shape)
    up = partial(_linear, shape.width, shape.ffn_width)
    down = partial(_linear, shape.ffn_width, shape.width, num_sums=shape.num_layers)
    return RoutedFeedForward(shape.modalities, up, down)


def _linear(num_in: int, num_out: int, *, num_sums: int = 0) -> nn.Linear:
    """Return a linear layer; ``num_sums`` layers whose results add up share their variance."""
    linear = Linear(num_in, num_out, bias=False)
    nn.init.normal_(linear.weight, std=(num_in * max(1, 2 * num_sums)) ** -0.5)
    return linear
