"""Layers of the OFA family: attention with biases for positions, and NormFormer's scales.

The absolute bias of a query and a key is a product of two vectors, as their score is, and is scaled alike. So
the vectors of positions lie behind those of states in every head: ``[q; pos_q] . [k; pos_k]`` has both, and
attention knows of no bias but the relative one.

Shape letters: N = tokens of the stream at hand, M = tokens of the encoder's, C = channels, H = heads, D =
head size, F = channels inside the feed-forward part, R = differences of places, S = parts of a layer that
add to its state.

Source: OFA, arXiv:2202.03052, and OFASys, arXiv:2212.04408; NormFormer's scales, arXiv:2110.09456; untied
positions, arXiv:2006.15595.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import AttentionPlan, Relative, attend
from ..drop_path import thin
from ..modality import Route, RoutedFeedForward, feed
from ..product import Linear

INITIAL_STD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeShape:
    """What all layers of a stack share.

    Attributes:
        width: Channels of a token.
        num_heads: Attention heads.
        ffn_width: Channels inside the feed-forward parts.
        num_layers: Layers.
        dropout: Share of channels dropped from what each part adds.
        drop_path: Chance that a part of the last layer adds nothing to a document.
        is_pre_norm: Whether parts normalise what they read, rather than what they leave.
        attn_scale_factor: Scores are divided by the root of the head size times this.
        scale_attn: Whether what attention adds is normalised.
        scale_fc: Whether the middle of the feed-forward part is.
        scale_heads: Whether each head has a factor.
        scale_resids: Whether the state that a feed-forward part adds to has a factor for each channel.
        absolute: How absolute positions enter: ``"bias"`` of attention, ``"added"`` to embeddings, or
            ``"none"``.
        has_tables: Whether attention has a relative bias.
        share_tables: Whether all layers have one.
        modalities: Those that have feed-forward weights of their own; none where all share them.
    """

    width: int
    num_heads: int
    ffn_width: int
    num_layers: int
    dropout: float = 0.0
    drop_path: float = 0.0
    is_pre_norm: bool = True
    attn_scale_factor: float = 2.0
    scale_attn: bool = True
    scale_fc: bool = True
    scale_heads: bool = True
    scale_resids: bool = False
    absolute: str = "bias"
    has_tables: bool = True
    share_tables: bool = False
    modalities: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[int, int]:
        """``H`` and ``D``."""
        return self.num_heads, self.width // self.num_heads

    @property
    def score_scale(self) -> float:
        """Factor of the scores, of states and of positions."""
        return (self.heads[1] * self.attn_scale_factor) ** -0.5


class Folded(NamedTuple):
    """Vectors of absolute positions, which lie behind those of states in every head.

    Attributes:
        q_NHD: Of the queries.
        k_MHD: Of the keys.
    """

    q_NHD: Tensor
    k_MHD: Tensor

    def fold(self, q_NHD: Tensor, k_MHD: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys with their positions."""
        return torch.cat((q_NHD, self.q_NHD), -1), torch.cat((k_MHD, self.k_MHD), -1)


class PositionProjection(nn.Module):
    """Vectors of absolute positions for attention, the same for all layers."""

    def __init__(self, shape: RelativeShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = linear(shape.width, shape.width)
        self.key = linear(shape.width, shape.width)

    def forward(self, query_NC: Tensor, key_MC: Tensor) -> Folded:
        """Return the vectors of the positions that ask, and of those that are asked."""
        return Folded(
            self.query(query_NC).unflatten(-1, self.heads),
            self.key(key_MC).unflatten(-1, self.heads),
        )


class SelfAttention(nn.Module):
    """Attention of a stream to itself."""

    def __init__(self, shape: RelativeShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query_key_value = linear(shape.width, 3 * shape.width)
        self.gain_H = _gain(shape.num_heads, is_there=shape.scale_heads)
        self.out = linear(shape.width, shape.width)

    def forward(
        self, x_NC: Tensor, plan: AttentionPlan, folded: Folded | None, relative: Relative | None
    ) -> Tensor:
        """Return what attention adds to ``x_NC``."""
        q_NHD, k_NHD, v_NHD = self.project(x_NC, folded)
        return self.merge(attend(q_NHD, k_NHD, v_NHD, plan, relative))

    def project(self, x_NC: Tensor, folded: Folded | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, positions folded in."""
        q_NHD, k_NHD, v_NHD = self.query_key_value(x_NC).unflatten(-1, (3, *self.heads)).unbind(1)
        if folded is not None:
            q_NHD, k_NHD = folded.fold(q_NHD, k_NHD)
        return q_NHD, k_NHD, v_NHD

    def merge(self, out_NHD: Tensor) -> Tensor:
        """Return what the heads' results add."""
        return self.out(_scale_heads(out_NHD, self.gain_H).flatten(1))


class CrossAttention(nn.Module):
    """Attention of a target stream to the encoder's."""

    def __init__(self, shape: RelativeShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = linear(shape.width, shape.width)
        self.key_value = linear(shape.width, 2 * shape.width)
        self.gain_H = _gain(shape.num_heads, is_there=shape.scale_heads)
        self.out = linear(shape.width, shape.width)

    def forward(
        self, x_NC: Tensor, memory_MC: Tensor, plan: AttentionPlan, folded: Folded | None
    ) -> Tensor:
        """Return what attention adds to ``x_NC``."""
        q_NHD = self.ask(x_NC, None if folded is None else folded.q_NHD)
        k_MHD, v_MHD = self.remember(memory_MC, None if folded is None else folded.k_MHD)
        return self.merge(attend(q_NHD, k_MHD, v_MHD, plan))

    def ask(self, x_NC: Tensor, positions_NHD: Tensor | None) -> Tensor:
        """Return queries, positions folded in."""
        q_NHD = self.query(x_NC).unflatten(-1, self.heads)
        return q_NHD if positions_NHD is None else torch.cat((q_NHD, positions_NHD), -1)

    def remember(self, memory_MC: Tensor, positions_MHD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return keys, positions folded in, and values of the memory."""
        k_MHD, v_MHD = self.key_value(memory_MC).unflatten(-1, (2, *self.heads)).unbind(1)
        return k_MHD if positions_MHD is None else torch.cat((k_MHD, positions_MHD), -1), v_MHD

    def merge(self, out_NHD: Tensor) -> Tensor:
        """Return what the heads' results add."""
        return self.out(_scale_heads(out_NHD, self.gain_H).flatten(1))


class FeedForward(nn.Module):
    """Two linear layers with GELU, and a norm if wanted, between them."""

    def __init__(self, shape: RelativeShape) -> None:
        super().__init__()
        self.up = linear(shape.width, shape.ffn_width)
        self.norm = nn.LayerNorm(shape.ffn_width) if shape.scale_fc else nn.Identity()
        self.down = linear(shape.ffn_width, shape.width)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return what the two layers add to ``x_NC``."""
        return self.down(self.norm(F.gelu(self.up(x_NC))))


class Residual(nn.Module):
    """The state of a token, and what a part adds to it."""

    def __init__(self, shape: RelativeShape, *, is_scaled: bool, has_factor: bool = False) -> None:
        super().__init__()
        self.is_pre_norm = shape.is_pre_norm
        self.norm = nn.LayerNorm(shape.width)
        self.scale = nn.LayerNorm(shape.width) if is_scaled else nn.Identity()
        self.factor_C = _gain(shape.width, is_there=has_factor)
        self.dropout = nn.Dropout(shape.dropout)

    def before(self, x_NC: Tensor) -> Tensor:
        """Return what the part reads of ``x_NC``."""
        return self.norm(x_NC) if self.is_pre_norm else x_NC

    def after(
        self, x_NC: Tensor, added_NC: Tensor, factors_SN1: Tensor | None = None, part: int = 0
    ) -> Tensor:
        """Return the state after the part; paths are dropped where ``factors_SN1`` of ``part`` are 0."""
        kept_NC = x_NC if self.factor_C is None else x_NC * self.factor_C
        sum_NC = kept_NC + thin(self.dropout(self.scale(added_NC)), factors_SN1, part)
        return sum_NC if self.is_pre_norm else self.norm(sum_NC)


class RelativeEncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, shape: RelativeShape) -> None:
        super().__init__()
        self.attention = SelfAttention(shape)
        self.attention_sum = Residual(shape, is_scaled=shape.scale_attn)
        self.ffn = _feed_forward(shape)
        self.ffn_sum = Residual(shape, is_scaled=False, has_factor=shape.scale_resids)

    def forward(
        self,
        x_NC: Tensor,
        plan: AttentionPlan,
        folded: Folded | None,
        relative: Relative | None,
        factors_SN1: Tensor | None = None,
        route: Route | None = None,
    ) -> Tensor:
        """Return the tokens' next state; paths are dropped where ``factors_SN1`` are 0."""
        added_NC = self.attention(self.attention_sum.before(x_NC), plan, folded, relative)
        x_NC = self.attention_sum.after(x_NC, added_NC, factors_SN1, 0)
        added_NC = feed(self.ffn, self.ffn_sum.before(x_NC), route)
        return self.ffn_sum.after(x_NC, added_NC, factors_SN1, 1)


class RelativeDecoderLayer(nn.Module):
    """Self-attention, attention to the source, then feed-forward."""

    def __init__(self, shape: RelativeShape) -> None:
        super().__init__()
        self.attention = SelfAttention(shape)
        self.attention_sum = Residual(shape, is_scaled=shape.scale_attn)
        self.cross = CrossAttention(shape)
        self.cross_sum = Residual(shape, is_scaled=shape.scale_attn)
        self.ffn = _feed_forward(shape)
        self.ffn_sum = Residual(shape, is_scaled=False, has_factor=shape.scale_resids)

    def forward(  # noqa: PLR0913, PLR0917 - it is told what is worked out once for all layers
        self,
        x_NC: Tensor,
        plan: AttentionPlan,
        folded: Folded | None,
        relative: Relative | None,
        memory_MC: Tensor,
        cross_plan: AttentionPlan,
        cross_folded: Folded | None,
        factors_SN1: Tensor | None = None,
        route: Route | None = None,
    ) -> Tensor:
        """Return the tokens' next state; paths are dropped where ``factors_SN1`` are 0."""
        added_NC = self.attention(self.attention_sum.before(x_NC), plan, folded, relative)
        x_NC = self.attention_sum.after(x_NC, added_NC, factors_SN1, 0)
        read_NC = self.cross(self.cross_sum.before(x_NC), memory_MC, cross_plan, cross_folded)
        x_NC = self.cross_sum.after(x_NC, read_NC, factors_SN1, 1)
        added_NC = feed(self.ffn, self.ffn_sum.before(x_NC), route)
        return self.ffn_sum.after(x_NC, added_NC, factors_SN1, 2)


def linear(num_in: int, num_out: int) -> nn.Linear:
    """Return a linear layer with an offset, begun as in BERT."""
    layer = Linear(num_in, num_out)
    nn.init.normal_(layer.weight, std=INITIAL_STD)
    nn.init.zeros_(layer.bias)
    return layer


def _feed_forward(shape: RelativeShape) -> nn.Module:
    if not shape.modalities:
        return FeedForward(shape)
    up = partial(linear, shape.width, shape.ffn_width)
    down = partial(linear, shape.ffn_width, shape.width)
    norm = nn.LayerNorm(shape.ffn_width) if shape.scale_fc else None
    return RoutedFeedForward(shape.modalities, up, down, norm)


def _gain(size: int, *, is_there: bool) -> nn.Parameter | None:
    return nn.Parameter(torch.ones(size)) if is_there else None


def _scale_heads(out_NHD: Tensor, gain_H: Tensor | None) -> Tensor:
    return out_NHD if gain_H is None else out_NHD * gain_H[:, None]
