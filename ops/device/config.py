"""The sizes of a model, checked once.

Codes T0220 (sizes) to T0230, T0232 and T0244 to T0248 belong to the device ops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from ...graph.errors import PlanError, Problem, suggest

POSITIONS: Final = ("rotary", "relative")
FFNS: Final = ("shared", "per_modality")
ABSOLUTES: Final = ("bias", "added", "none")
TRUNKS: Final = {
    "resnet50": 16,
    "resnet101": 16,
    "resnet152": 16,
    "vit_base": 16,
    "vit_large": 14,
    "vit_large_336": 14,
    "vit_huge": 14,
}
"""What images can be seen through, and the side in pixels of what becomes a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of an encoder-decoder transformer.

    Attributes:
        width: Size of a token's state between layers.
        num_heads: Attention heads; each has ``width / num_heads`` channels, an even number.
        num_encoder_layers: Layers that read the source.
        num_decoder_layers: Layers that write the target.
        ffn_width: Size of a token's state inside a layer's feed-forward part.
        ffn: Weights of feed-forward parts: ``shared`` by all tokens, or ``per_modality``.
        dropout: Share of channels dropped from what each part adds to a token's state, in [0, 1).
        drop_path: Chance that a part of a stack's last layer adds nothing to a document, in [0, 1); it rises
            evenly from 0 at the first layer.
        position: How order enters attention: ``rotary``, or ``relative`` for the OFA family. What follows after
            ``label_smoothing`` is for ``relative`` alone.
        label_smoothing: Share of each label's probability that is spread over the other ids, in [0, 1).
        pre_norm: Whether the parts of a layer normalise what they read, rather than what they leave.
        attn_scale_factor: Scores of attention are divided by the root of the head size times this.
        scale_attn: Whether what attention adds is normalised.
        scale_fc: Whether the middle of a feed-forward part is normalised.
        scale_heads: Whether each head of attention has a factor.
        scale_resids: Whether a state has factors before a feed-forward part adds to it.
        absolute_position: How positions as such enter: ``bias`` of attention, ``added`` to embeddings,
            ``none``.
        relative_bias: Whether attention has a bias for the distance of two tokens of a slot.
        share_relative_bias: Whether all layers of a stack have the same one.
        max_positions: Most tokens of a run of text.
        trunk: What sees images before they are tokens, such as ``resnet101``; empty for patches as they are.
    """

    width: int = 160
    num_heads: int = 4
    num_encoder_layers: int = 3
    num_decoder_layers: int = 2
    ffn_width: int = 640
    ffn: str = "shared"
    dropout: float = 0.0
    drop_path: float = 0.0
    position: str = "rotary"
    label_smoothing: float = 0.0
    pre_norm: bool = True
    attn_scale_factor: float = 2.0
    scale_attn: bool = True
    scale_fc: bool = True
    scale_heads: bool = True
    scale_resids: bool = False
    absolute_position: str = "bias"
    relative_bias: bool = True
    share_relative_bias: bool = False
    max_positions: int = 1024
    trunk: str = ""

    def __post_init__(self) -> None:
        if problems := tuple(_problems(self)):
            raise PlanError(*problems)

    @property
    def idle(self) -> list[str]:
        """Names of what is set and changes nothing, since it is for ``relative`` alone."""
        names = [] if self.position == "relative" else [each.name for each in fields(self)]
        after = names[names.index("label_smoothing") + 1 :] if names else []
        default = ModelConfig()
        return [name for name in after if getattr(self, name) != getattr(default, name)]


def _problems(config: ModelConfig) -> Iterator[Problem]:
    sizes = ("width", "num_heads", "num_encoder_layers", "num_decoder_layers", "ffn_width")
    for name in (*sizes, "max_positions"):
        if (size := getattr(config, name)) < 1:
            yield Problem("T0220", f"{name} must be at least 1, got {size}")
    yield from _head_problems(config)
    for name in ("dropout", "drop_path", "label_smoothing"):
        if not 0 <= (share := getattr(config, name)) < 1:
            yield Problem("T0220", f"{name} must be in [0, 1), got {share}")
    if not config.attn_scale_factor > 0:
        message = f"attn_scale_factor must be positive, got {config.attn_scale_factor}"
        yield Problem("T0220", message)
    choices = {
        "ffn": FFNS,
        "position": POSITIONS,
        "absolute_position": ABSOLUTES,
        "trunk": ("", *TRUNKS),
    }
    for name, known in choices.items():
        if (value := getattr(config, name)) not in known:
            message = f'unknown {name} "{value}"'
            yield Problem("T0220", message, suggest(value, [each for each in known if each]))


def _head_problems(config: ModelConfig) -> Iterator[Problem]:
    if config.num_heads < 1:
        return
    sizes = f"{config.width} and {config.num_heads}"
    if config.position == "rotary" and config.width % (2 * config.num_heads):
        message = f"width must be a multiple of twice num_heads, got {sizes}"
        yield Problem("T0220", message, "rotary positions turn pairs of channels")
    elif config.width % config.num_heads:
        yield Problem("T0220", f"width must be a multiple of num_heads, got {sizes}")
