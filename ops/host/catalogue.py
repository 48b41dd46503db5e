"""The host ops a graph may use. To add one, write its module and name it in `HOST_CATALOGUE`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from ...graph.op import Catalogue
from .box import MeasureImages, QuantizeBoxes, RepeatSizes
from .bpe import EncodeTexts, FitBpe
from .closed_set import FitClosedSet, RestrictTexts
from .constant import LoadArtifacts, MakeIds, MakeTexts
from .document import ComposeDocuments, PackDocuments
from .filter import CompareValues
from .group import CountItems, GroupItems, PickItems, RepeatValues, UnnestLists
from .image import DecodeImages, ResizeImages
from .noise import MaskSpans, ReplaceIds
from .read import ReadColumns, ReadSplits
from .split import AssignSplits, MaskSplits
from .text import FormatTexts, NormalizeTexts, StripTexts

HOST_CATALOGUE: Final[Catalogue] = MappingProxyType(
    {
        "assign_splits": AssignSplits,
        "compare_values": CompareValues,
        "compose_documents": ComposeDocuments,
        "count_items": CountItems,
        "decode_images": DecodeImages,
        "encode_texts": EncodeTexts,
        "fit_bpe": FitBpe,
        "fit_closed_set": FitClosedSet,
        "format_texts": FormatTexts,
        "group_items": GroupItems,
        "load_artifacts": LoadArtifacts,
        "make_ids": MakeIds,
        "make_texts": MakeTexts,
        "mask_spans": MaskSpans,
        "mask_splits": MaskSplits,
        "measure_images": MeasureImages,
        "normalize_texts": NormalizeTexts,
        "pack_documents": PackDocuments,
        "pick_items": PickItems,
        "quantize_boxes": QuantizeBoxes,
        "read_columns": ReadColumns,
        "read_splits": ReadSplits,
        "repeat_sizes": RepeatSizes,
        "repeat_values": RepeatValues,
        "replace_ids": ReplaceIds,
        "resize_images": ResizeImages,
        "restrict_texts": RestrictTexts,
        "strip_texts": StripTexts,
        "unnest_lists": UnnestLists,
    }
)
