"""The encoder: the stack that reads the source stream.

Shape letters: N = tokens of the source stream, C = channels.
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
from .layer import EncoderLayer, LayerShape, layer_norm
from .modality import modality_port, plan_route
from .rotary import plan_rotary


class Encoder(nn.Module):
    """Layers, then a last norm."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.modalities = shape.modalities
        self.head_size = shape.width // shape.num_heads
        self.dropout = nn.Dropout(shape.dropout)
        self.paths = DropPath(shape.drop_path, num_layers=shape.num_layers, num_parts=2)
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = layer_norm(shape.width)

    def forward(
        self,
        hidden_NC: Tensor,
        positions_N: Tensor,
        keys_2N: Tensor,
        spec: AttentionSpec,
        told: tuple[Tensor | None, tuple[str, ...]] = (None, ()),
    ) -> Tensor:
        """Return the stream as the decoder reads it, shape ``(N, C)``.

        Args:
            hidden_NC: Embedded tokens.
            positions_N: Position of each token in its document.
            keys_2N: First key each token sees, and one past the last.
            spec: What is static about the attention.
            told: Number of each token's modality, and the modalities by number.
        """
        rotary = plan_rotary(positions_N, self.head_size)
        plan = plan_attention(keys_2N[0], keys_2N[1], hidden_NC.shape[0], spec)
        route = plan_route(*told, self.modalities)
        x_NC = self.dropout(hidden_NC)
        for layer, factors in zip(self.layers, self.paths(keys_2N[0]), strict=True):
            x_NC = layer(x_NC, rotary, plan, factors, route)
        return self.norm(x_NC)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeStreams:
    """Read the source stream.

    ``tile``, ``longest`` and ``backend`` say how packs are laid out and computed; no parameter
    depends on them.

    Attributes:
        model_width: Channels of a token.
        num_heads: Attention heads.
        num_layers: Layers.
        ffn_width: Channels inside the feed-forward parts.
        dropout: Share of channels dropped from what each part adds.
        drop_path: Chance that a part of the last layer adds nothing to a document.
        modalities: Those that have feed-forward weights of their own; none where all share them.
        tile: Multiple that longer documents are aligned to, and no shorter one crosses.
        longest: Most tokens of a document; 0 where that is not known.
        backend: Back end of attention.
    """

    model_width: int
    num_heads: int
    num_layers: int
    ffn_width: int
    dropout: float = 0.0
    drop_path: float = 0.0
    modalities: tuple[str, ...] = ()
    tile: int = 64
    longest: int = 0
    backend: str = "auto"
    traits: ClassVar[Traits] = Traits("encode_streams", version=1, place=Place.DEVICE)

    @classmethod
    def of(cls, config: ModelConfig, modalities: tuple[str, ...] = ()) -> EncodeStreams:
        """Return the encoder of a model; ``modalities`` where these have weights of their own."""
        return cls(
            model_width=config.width,
            num_heads=config.num_heads,
            num_layers=config.num_encoder_layers,
            ffn_width=config.ffn_width,
            dropout=config.dropout,
            drop_path=config.drop_path,
            modalities=modalities,
        )

    @property
    def signature(self) -> Signature:
        """Embedded tokens, their positions and their key ranges in; states out."""
        return Signature(
            inputs={
                "hidden": hidden_port("NS", self.model_width),
                "positions": Port("positions", "int32", ("NS",), Layout.PACKED),
                "keys": Port("keys", "int32", (2, "NS"), Layout.PACKED),
                "modalities": modality_port("NS", is_optional=True),
            },
            outputs={"out": hidden_port("NS", self.model_width)},
        )

    def module(self) -> Encoder:
        """Build the layers."""
        shape = LayerShape(
            self.model_width,
            self.num_heads,
            self.ffn_width,
            self.dropout,
            self.num_layers,
            self.drop_path,
            self.modalities,
        )
        return Encoder(shape)

    def __call__(
        self,
        module: Encoder,
        hidden: Tensor,
        positions: Tensor,
        keys: Tensor,
        modalities: Tensor | None = None,
    ) -> Tensor:
        """Return the stream as the decoder reads it, shape ``(NS, C)``."""
        spec = AttentionSpec.within_documents(self.longest, tile=self.tile, backend=self.backend)
        return module(hidden, positions, keys, spec, (modalities, self.modalities))
