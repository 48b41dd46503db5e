"""The decoder: reads the target stream as a whole, where it is known; `decode` writes one token by token.

Shape letters: N = tokens of the target stream, M = tokens of the source stream, C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ...graph.op import Traits
from ...graph.type import Layout, Place, Port, Signature
from .attention import AttentionSpec, plan_attention
from .config import ModelConfig
from .drop_path import DropPath
from .embedding import hidden_port
from .layer import DecoderLayer, LayerShape, layer_norm
from .modality import Blocks, modality_port, names_of, plan_route
from .rotary import plan_rotary


class Decoder(nn.Module):
    """Layers, then a last norm."""

    def __init__(self, shape: LayerShape, blocks: Blocks = ()) -> None:
        """Build the layers.

        Args:
            shape: Sizes.
            blocks: Of ids, where each modality has feed-forward weights of its own.
        """
        super().__init__()
        self.blocks = blocks
        self.heads = (shape.num_heads, shape.width // shape.num_heads)
        self.dropout = nn.Dropout(shape.dropout)
        self.paths = DropPath(shape.drop_path, num_layers=shape.num_layers, num_parts=3)
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
        modalities_N: Tensor | None = None,
    ) -> Tensor:
        """Return the states from which the next tokens are scored, shape ``(N, C)``.

        Args:
            hidden_NC: Embedded target tokens.
            positions_N: Position of each token in its document.
            keys_2N: First target token each one sees, and one past the last.
            memory_MC: The encoder's stream.
            cross_keys_2N: First source token each one sees, and one past the last.
            specs: What is static about attention to the target and to the source.
            modalities_N: Number of each target token's modality.
        """
        rotary = plan_rotary(positions_N, self.heads[1])
        plan = plan_attention(keys_2N[0], keys_2N[1], hidden_NC.shape[0], specs[0])
        cross_plan = plan_attention(
            cross_keys_2N[0], cross_keys_2N[1], memory_MC.shape[0], specs[1]
        )
        names = names_of(self.blocks)
        route = plan_route(modalities_N, names, names)
        x_NC = self.dropout(hidden_NC)
        for layer, factors in zip(self.layers, self.paths(keys_2N[0]), strict=True):
            x_NC = layer(x_NC, rotary, plan, memory_MC, cross_plan, factors, route)
        return self.norm(x_NC)


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
        drop_path: Chance that a part of the last layer adds nothing to a document.
        blocks: Of ids, where each modality has feed-forward weights of its own; none where all share them.
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
    drop_path: float = 0.0
    blocks: Blocks = ()
    tile: int = 64
    longest: int = 0
    cross_window: int = 0
    backend: str = "auto"
    traits: ClassVar[Traits] = Traits("decode_streams", version=1, place=Place.DEVICE)

    @classmethod
    def of(cls, config: ModelConfig, blocks: Blocks = ()) -> DecodeStreams:
        """Return the decoder of a model; ``blocks`` where their modalities have weights of their own."""
        return cls(
            model_width=config.width,
            num_heads=config.num_heads,
            num_layers=config.num_decoder_layers,
            ffn_width=config.ffn_width,
            dropout=config.dropout,
            drop_path=config.drop_path,
            blocks=blocks,
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
                "modalities": modality_port("NT", is_optional=True),
            },
            outputs={"out": hidden_port("NT", self.model_width)},
        )

    def module(self) -> Decoder:
        """Build the layers."""
        shape = LayerShape(
            self.model_width,
            self.num_heads,
            self.ffn_width,
            self.dropout,
            self.num_layers,
            self.drop_path,
            names_of(self.blocks),
        )
        return Decoder(shape, self.blocks)

    def __call__(
        self,
        module: Decoder,
        hidden: Tensor,
        positions: Tensor,
        keys: Tensor,
        memory: Tensor,
        cross_keys: Tensor,
        modalities: Tensor | None = None,
    ) -> Tensor:
        """Return the states from which the next tokens are scored, shape ``(NT, C)``."""
        own = AttentionSpec.within_documents(self.longest, tile=self.tile, backend=self.backend)
        cross = AttentionSpec(backend=self.backend, tile=self.tile, window=self.cross_window)
        specs = (own, cross)
        return module(hidden, positions, keys, memory, cross_keys, specs, modalities)
