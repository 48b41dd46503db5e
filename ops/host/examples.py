"""Something for every host op to compute: two rows each."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
import pyarrow as pa
from PIL import Image

from ..example import Example, Examples
from .box import MeasureImages, QuantizeBoxes, RepeatSizes
from .bpe import Bpe, EncodeTexts, FitBpe
from .closed_set import ClosedSet, FitClosedSet, RestrictTexts
from .constant import LoadArtifacts, MakeIds, MakeTexts
from .document import ComposeDocuments, PackDocuments
from .filter import CompareValues
from .group import CountItems, GroupItems, PickItems, RepeatValues, UnnestLists
from .image import DecodeImages, ResizeImages
from .noise import MaskSpans, ReplaceIds
from .read import SPLIT_COLUMN, ReadColumns, ReadSplits
from .split import AssignSplits, MaskSplits
from .text import FormatTexts, NormalizeTexts, StripTexts


def _encode_png(height: int, width: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


_TEXTS = pa.array(["a cat", "two dogs"])
_SPLITS = pa.array([0, 0], pa.uint8())
_NUMBERS = pa.array([1.5, 7.0])
_FILES = pa.array([_encode_png(2, 3), _encode_png(5, 4)])
_PIXELS = DecodeImages()(_FILES)
_IDS = pa.array([list(range(20)), list(range(30, 45))], pa.list_(pa.uint16()))
_LEARNED = {"texts": _TEXTS, "splits": _SPLITS}
_VOCABULARY = Bpe(FitBpe(size=300).finish(FitBpe(size=300).observe(**_LEARNED)))
_LISTS = {"words": pa.array([["a", "b"], []], pa.list_(pa.string()))}
_ITEMS = UnnestLists()(**_LISTS)
_BOX = [5, 20, 80, 90.5, 192, 144]
_ANSWERS = ClosedSet(("a cat", "two dogs", "none"))
_BATCH = pa.RecordBatch.from_pydict({"texts": _TEXTS, SPLIT_COLUMN: _SPLITS})

EXAMPLES: Final[Examples] = (
    Example(op=AssignSplits(test=0.5, valid=0.5), rows={"split": _SPLITS, "key": _NUMBERS}),
    Example(op=CompareValues(operator=">", value=2), rows={"values": _NUMBERS}),
    Example(op=ComposeDocuments(source=({"special": 0},))),
    Example(op=CountItems(), rows={"items": _ITEMS}),
    Example(op=DecodeImages(), rows={"values": _FILES}),
    Example(op=EncodeTexts(), rows={"texts": _TEXTS}, constants={"bpe": _VOCABULARY}),
    Example(
        op=EncodeTexts(dtype="uint32", max_length=3),
        rows={"texts": _TEXTS},
        constants={"bpe": _VOCABULARY},
    ),
    Example(op=FitBpe(size=300), rows=_LEARNED),
    Example(op=FitClosedSet(), rows=_LEARNED),
    Example(op=FormatTexts(), rows={"values": _NUMBERS}),
    Example(op=GroupItems(items=({"special": 0},))),
    Example(op=LoadArtifacts(kind="bpe", digest="5c1f")),
    Example(op=MakeIds(ids=(3, 1), dtype="uint8")),
    Example(op=MakeTexts(text="a cat")),
    Example(op=MaskSpans(ratio=0.3, mask_id=300, num_ids=300), rows={"ids": _IDS}),
    Example(
        op=MaskSpans(ratio=0.5, mask_id=300, num_ids=300, replace_length=1, random_ratio=0.5),
        rows={"ids": _IDS},
    ),
    Example(op=MaskSplits(), rows={"split": _SPLITS, "keep": pa.array([True, False])}),
    Example(op=MeasureImages(), rows={"images": _PIXELS}),
    Example(op=NormalizeTexts(is_lowercase=True, has_punctuation=False), rows={"texts": _TEXTS}),
    Example(op=PackDocuments(lanes={})),
    Example(op=PickItems(number=0, dtype="string"), rows={"items": _ITEMS.flatten()}),
    Example(
        op=QuantizeBoxes(),
        rows={"values": pa.array(["0,0,3,2", "1,2.5,4,5"]), "sizes": MeasureImages()(_PIXELS)},
    ),
    Example(
        op=QuantizeBoxes(has_pictures=False, num_bins=10), rows={"values": pa.array([_BOX, _BOX])}
    ),
    Example(op=ReadColumns(column="texts", dtype="string"), rows={"batch": _BATCH}),
    Example(op=ReadSplits(), rows={"batch": _BATCH}),
    Example(op=RepeatSizes(), rows={"values": MeasureImages()(_PIXELS), "items": _ITEMS.flatten()}),
    Example(op=RepeatValues(), rows={"values": _SPLITS, "items": _ITEMS.flatten()}),
    Example(op=ReplaceIds(ratio=0.5, num_ids=300), rows={"ids": _IDS}),
    Example(op=ResizeImages(height=4, width=2), rows={"images": _PIXELS}),
    Example(op=RestrictTexts(), rows={"texts": _TEXTS}, constants={"closed_set": _ANSWERS}),
    Example(op=StripTexts(is_lowercase=True), rows={"texts": pa.array([" A  cat\n", "é"])}),
    Example(op=UnnestLists(), rows=_LISTS),
)
