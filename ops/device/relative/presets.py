"""The sizes that OFA and OFASys ship.

Source: OFASys, ``model/ofa.py``. The three largest have no trunk there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..config import ModelConfig


def _preset(
    width: int, ffn_width: int, layers: tuple[int, int], num_heads: int, trunk: str
) -> ModelConfig:
    return ModelConfig(
        position="relative",
        width=width,
        ffn_width=ffn_width,
        num_encoder_layers=layers[0],
        num_decoder_layers=layers[1],
        num_heads=num_heads,
        dropout=0.1,
        trunk=trunk,
    )


PRESETS: Final[Mapping[str, ModelConfig]] = MappingProxyType(
    {
        "tiny": _preset(256, 1024, (4, 4), 4, "resnet50"),
        "medium": _preset(512, 2048, (4, 4), 8, "resnet101"),
        "base": _preset(768, 3072, (6, 6), 12, "resnet101"),
        "large": _preset(1024, 4096, (12, 12), 16, "resnet152"),
        "huge": _preset(1280, 5120, (24, 12), 16, "resnet152"),
        "asr_small": _preset(256, 2048, (12, 6), 4, "resnet101"),
        "asr_base": _preset(768, 3072, (12, 6), 12, "resnet101"),
        "6b": _preset(2560, 10240, (36, 24), 32, ""),
        "8b": _preset(2560, 10240, (48, 36), 32, ""),
        "10b": _preset(2816, 11264, (48, 36), 32, ""),
    }
)
