"""The device ops a graph may use. To add one, write its module and say here where its class is.

They are named rather than imported: who looks for a host op must not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

DEVICE_CATALOGUE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "adapt_images": "taskloom.ops.device.relative.slot_ops:AdaptImages",
        "adapt_tokens": "taskloom.ops.device.relative.slot_ops:AdaptTokens",
        "add_losses": "taskloom.ops.device.contrast:AddLosses",
        "compare_pairs": "taskloom.ops.device.contrast:ComparePairs",
        "contrast_pairs": "taskloom.ops.device.contrast:ContrastPairs",
        "decode_relative": "taskloom.ops.device.relative.stack_ops:DecodeRelative",
        "decode_streams": "taskloom.ops.device.decoder:DecodeStreams",
        "embed_ids": "taskloom.ops.device.relative.slot_ops:EmbedIds",
        "embed_patches": "taskloom.ops.device.embedding:EmbedPatches",
        "embed_tokens": "taskloom.ops.device.embedding:EmbedTokens",
        "encode_relative": "taskloom.ops.device.relative.stack_ops:EncodeRelative",
        "encode_streams": "taskloom.ops.device.encoder:EncodeStreams",
        "find_slots": "taskloom.ops.device.relative.slot_ops:FindSlots",
        "place_tokens": "taskloom.ops.device.embedding:PlaceTokens",
        "score_tokens": "taskloom.ops.device.loss:ScoreTokens",
        "tell_modalities": "taskloom.ops.device.modality:TellModalities",
    }
)
