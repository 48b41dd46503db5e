"""The host ops a graph may use. To add one, write its module and name it in `HOST_CATALOGUE`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from ...graph.op import Catalogue
from .bpe import EncodeTexts, FitBpe
from .closed_set import FitClosedSet, RestrictTexts
from .constant import LoadArtifacts, MakeIds, MakeTexts
from .document import ComposeDocuments, PackDocuments
from .filter import CompareValues
from .image import DecodeImages, ResizeImages
from .read import ReadColumns, ReadSplits
from .split import AssignSplits, MaskSplits
from .text import FormatTexts, NormalizeTexts

HOST_CATALOGUE: Final[Catalogue] = MappingProxyType(
    {
        "assign_splits": AssignSplits,
        "compare_values": CompareValues,
        "compose_documents": ComposeDocuments,
        "decode_images": DecodeImages,
        "encode_texts": EncodeTexts,
        "fit_bpe": FitBpe,
        "fit_closed_set": FitClosedSet,
        "format_texts": FormatTexts,
        "load_artifacts": LoadArtifacts,
        "make_ids": MakeIds,
        "make_texts": MakeTexts,
        "mask_splits": MaskSplits,
        "normalize_texts": NormalizeTexts,
        "pack_documents": PackDocuments,
        "read_columns": ReadColumns,
        "read_splits": ReadSplits,
        "resize_images": ResizeImages,
        "restrict_texts": RestrictTexts,
    }
)
