"""The device ops a graph may use. To add one, write its module and say here where its class is.

They are named rather than imported: who looks for a host op must not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

DEVICE_CATALOGUE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "add_losses": "taskloom.ops.device.contrast:AddLosses",
        "compare_pairs": "taskloom.ops.device.contrast:ComparePairs",
        "contrast_pairs": "taskloom.ops.device.contrast:ContrastPairs",
        "decode_streams": "taskloom.ops.device.decoder:DecodeStreams",
        "embed_patches": "taskloom.ops.device.embedding:EmbedPatches",
        "embed_tokens": "taskloom.ops.device.embedding:EmbedTokens",
        "encode_streams": "taskloom.ops.device.encoder:EncodeStreams",
        "place_tokens": "taskloom.ops.device.embedding:PlaceTokens",
        "score_tokens": "taskloom.ops.device.loss:ScoreTokens",
    }
)
