"""All the ops a graph may use, host and device. Planning needs both; a worker process only the host's."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from ..graph.op import Catalogue
from .device.decoder import DecodeStreams
from .device.embedding import EmbedPatches, EmbedTokens, PlaceTokens
from .device.encoder import EncodeStreams
from .device.loss import ScoreTokens
from .host.catalogue import HOST_CATALOGUE

CATALOGUE: Final[Catalogue] = MappingProxyType(
    {
        **HOST_CATALOGUE,
        "decode_streams": DecodeStreams,
        "embed_patches": EmbedPatches,
        "embed_tokens": EmbedTokens,
        "encode_streams": EncodeStreams,
        "place_tokens": PlaceTokens,
        "score_tokens": ScoreTokens,
    }
)
