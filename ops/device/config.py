"""The sizes of a model, checked once.

Codes T0220 (sizes) to T0229 belong to the device ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...graph.errors import PlanError, Problem, suggest

POSITIONS: Final = ("rotary",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of an encoder-decoder transformer.

    Attributes:
        width: Size of a token's state between layers.
        num_heads: Attention heads; each has ``width / num_heads`` channels, an even number.
        num_encoder_layers: Layers that read the source.
        num_decoder_layers: Layers that write the target.
        ffn_width: Size of a token's state inside a layer's feed-forward part.
        dropout: Share of channels dropped from what each part adds to a token's state, in [0, 1).
        position: How order enters attention.
        label_smoothing: Share of each label's probability that is spread over the other ids, in [0, 1).
    """

    width: int = 160
    num_heads: int = 4
    num_encoder_layers: int = 3
    num_decoder_layers: int = 2
    ffn_width: int = 640
    dropout: float = 0.0
    position: str = "rotary"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if problems := tuple(_problems(self)):
            raise PlanError(*problems)


def _problems(config: ModelConfig) -> list[Problem]:
    problems: list[Problem] = []
    sizes = ("width", "num_heads", "num_encoder_layers", "num_decoder_layers", "ffn_width")
    for name in sizes:
        if (size := getattr(config, name)) < 1:
            problems.append(Problem("T0220", f"{name} must be at least 1, got {size}"))
    if config.num_heads > 0 and config.width % (2 * config.num_heads):
        sizes_ = f"{config.width} and {config.num_heads}"
        message = f"width must be a multiple of twice num_heads, got {sizes_}"
        problems.append(Problem("T0220", message, "rotary positions turn pairs of channels"))
    for name in ("dropout", "label_smoothing"):
        if not 0 <= (share := getattr(config, name)) < 1:
            problems.append(Problem("T0220", f"{name} must be in [0, 1), got {share}"))
    if config.position not in POSITIONS:
        message = f'unknown position "{config.position}"'
        problems.append(Problem("T0220", message, suggest(config.position, POSITIONS)))
    return problems
