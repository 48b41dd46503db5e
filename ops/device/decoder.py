"""The decoder: writes the target stream, whole where it is known, else token by token.

Shape letters: N = tokens of the target stream, M = tokens of the source stream, C = channels, B =
documents being written, L = longest that is written, K = longest source, H = heads, D = head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from ...graph.op import Traits
from ...graph.type import Layout, Place, Port, Signature
from .attention import AttentionSpec, plan_attention
from .config import ModelConfig
from .embedding import hidden_port
from .layer import DecoderLayer, LayerShape, Seen, layer_norm
from .rotary import plan_rotary


class DecodeCache(NamedTuple):
    """What writing keeps from token to token; static in size, written in place.

    Attributes:
        own: Keys and values of the tokens written so far, one tensor ``(2, B, L, H, D)`` per layer.
        cross: Keys and values of each document's source, one tensor ``(B, K, 2, H, D)`` per layer.
        cross_seen: Which of these are the document's.
    """

    own: tuple[Tensor, ...]
    cross: tuple[Tensor, ...]
    cross_seen: Seen


class Decoder(nn.Module):
    """Layers, then a last norm."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.heads = (shape.num_heads, shape.width // shape.num_heads)
        self.dropout = nn.Dropout(shape.dropout)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = layer_norm(shape.width)

    def forward(
        self,
        hidden_NC: Tensor,
        positions_N: Tensor,
        keys_2N: Tensor,
        memory_MC: Tensor,
        cross_keys_2N: Tensor,
        specs: tuple[AttentionSpec, AttentionSpec],
    ) -> Tensor:
        """Return the states from which the next tokens are scored, shape ``(N, C)``.

        Args:
            hidden_NC: Embedded target tokens.
            positions_N: Position of each token in its document.
            keys_2N: First target token each one sees, and one past the last.
            memory_MC: The encoder's stream.
            cross_keys_2N: First source token each one sees, and one past the last.
            specs: What is static about attention to the target and to the source.
        """
        rotary = plan_rotary(positions_N, self.heads[1])
        plan = plan_attention(keys_2N[0], keys_2N[1], hidden_NC.shape[0], specs[0])
        cross_plan = plan_attention(
            cross_keys_2N[0], cross_keys_2N[1], memory_MC.shape[0], specs[1]
        )
        x_NC = self.dropout(hidden_NC)
        for layer in self.layers:
            x_NC = layer(x_NC, rotary, plan, memory_MC, cross_plan)
        return self.norm(x_NC)

    def begin(
        self, memory_MC: Tensor, keys_2B: Tensor, *, longest_source: int, max_length: int
    ) -> DecodeCache:
        """Return the cache to write one target per document.

        Args:
            memory_MC: The encoder's stream.
            keys_2B: First source token of each document, and one past the last.
            longest_source: ``K``; a document with a longer source gets NaN.
            max_length: ``L``.
        """
        rows_BK, seen = see_sources(keys_2B, memory_MC.shape[0], longest_source)
        cross = tuple(layer.cross.remember(memory_MC)[rows_BK] for layer in self._layers())
        shape = (2, keys_2B.shape[1], max_length, *self.heads)
        return DecodeCache(tuple(cross[0].new_zeros(shape) for _ in self.layers), cross, seen)

    def step(self, hidden_BC: Tensor, index: Tensor, cache: DecodeCache) -> Tensor:
        """Return the states after one more token per document, shape ``(B, C)``.

        Args:
            hidden_BC: The token, embedded.
            index: Its position, shape ``(1,)``; one tensor for all, so that steps are one program.
            cache: What `begin` made; the token is added to it.
        """
        num_documents, max_length = cache.own[0].shape[1:3]
        rotary = plan_rotary(index, self.heads[1])
        is_later_L = torch.arange(max_length, device=index.device) > index
        bias_L = torch.zeros(max_length, device=index.device).masked_fill(is_later_L, -torch.inf)
        seen = Seen(
            bias_L.expand(num_documents, 1, 1, max_length), bias_L.new_ones(num_documents, 1, 1)
        )
        x_BC = hidden_BC
        for layer, own, cross in zip(self._layers(), cache.own, cache.cross, strict=True):
            x_BC = layer.step(x_BC, rotary, own, index, seen, cross, cache.cross_seen)
        return self.norm(x_BC)

    def _layers(self) -> list[DecoderLayer]:
        return [cast("DecoderLayer", layer) for layer in self.layers]


def see_sources(keys_2B: Tensor, num_tokens: int, longest: int) -> tuple[Tensor, Seen]:
    """Return the row of every source token of each document, shape ``(B, K)``, and which of them are its own.

    Args:
        keys_2B: First source token of each document, and one past the last.
        num_tokens: Tokens of the source stream.
        longest: ``K``; a document with a longer source gets NaN.
    """
    lo_B, hi_B = keys_2B
    index_K = torch.arange(longest, device=lo_B.device)
    rows_BK = (lo_B[:, None] + index_K).clamp(max=num_tokens - 1)
    length_B = hi_B - lo_B
    # An empty source sees all keys and keeps nothing: no softmax is taken over nothing.
    is_hidden_BK = (index_K >= length_B[:, None]) & (length_B > 0)[:, None]
    bias_BK = torch.zeros(is_hidden_BK.shape, device=lo_B.device)
    bias_BK = bias_BK.masked_fill(is_hidden_BK, -torch.inf)
    keep_B = (length_B > 0).float().masked_fill(length_B > longest, torch.nan)
    return rows_BK, Seen(bias_BK[:, None, None], keep_B[:, None, None])


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStreams:
    """Write the target stream, each token from those before it and from its source.

    ``tile``, ``longest``, ``cross_window`` and ``backend`` say how packs are laid out and computed;
    no parameter depends on them.

    Attributes:
        model_width: Channels of a token.
        num_heads: Attention heads.
        num_layers: Layers.
        ffn_width: Channels inside the feed-forward parts.
        dropout: Share of channels dropped from what each part adds.
        tile: Multiple that longer documents are aligned to, and no shorter one crosses, on both
            sides.
        longest: Most target tokens of a document; 0 where that is not known.
        cross_window: Source tokens that one tile of the target may reach, a multiple of ``tile``; 0
            for all.
        backend: Back end of attention.
    """

    model_width: int
    num_heads: int
    num_layers: int
    ffn_width: int
    dropout: float = 0.0
    tile: int = 64
    longest: int = 0
    cross_window: int = 0
    backend: str = "auto"
    traits: ClassVar[Traits] = Traits("decode_streams", version=1, place=Place.DEVICE)

    @classmethod
    def of(cls, config: ModelConfig) -> DecodeStreams:
        """Return the decoder of a model."""
        return cls(
            model_width=config.width,
            num_heads=config.num_heads,
            num_layers=config.num_decoder_layers,
            ffn_width=config.ffn_width,
            dropout=config.dropout,
        )

    @property
    def signature(self) -> Signature:
        """Embedded target, positions, ranges and the source's states in; states out."""
        return Signature(
            inputs={
                "hidden": hidden_port("NT", self.model_width),
                "positions": Port("positions", "int32", ("NT",), Layout.PACKED),
                "keys": Port("keys", "int32", (2, "NT"), Layout.PACKED),
                "memory": hidden_port("NS", self.model_width),
                "cross_keys": Port("keys", "int32", (2, "NT"), Layout.PACKED),
            },
            outputs={"out": hidden_port("NT", self.model_width)},
        )

    def module(self) -> Decoder:
        """Build the layers."""
        shape = LayerShape(
            self.model_width, self.num_heads, self.ffn_width, self.dropout, self.num_layers
        )
        return Decoder(shape)

    def __call__(
        self,
        module: Decoder,
        hidden: Tensor,
        positions: Tensor,
        keys: Tensor,
        memory: Tensor,
        cross_keys: Tensor,
    ) -> Tensor:
        """Return the states from which the next tokens are scored, shape ``(NT, C)``."""
        own = AttentionSpec.within_documents(self.longest, tile=self.tile, backend=self.backend)
        cross = AttentionSpec(backend=self.backend, tile=self.tile, window=self.cross_window)
        return module(hidden, positions, keys, memory, cross_keys, (own, cross))
