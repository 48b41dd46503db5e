"""Spelling: what ids of one block say, as the text of a slot's value.

Ids of text are text. Those of a box are its four bins, ``312,73,574,486``, until it is known how large the
picture is that it lies in (`place_boxes`): then its corners in pixels, as rows spell them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...graph.instruction import Instruction, Slot
from ...ops.host.box import NUM_CORNERS, MeasureImages, place_box
from ...ops.host.bpe import Bpe
from ...ops.host.image import DecodeImages
from ...ops.recipe.box import BLOCK as BINS
from ...ops.recipe.box import PICTURE

Said = str | list[str]
Size = tuple[float, float]

_MODALITY = "BOX"


def spell_ids(block: str, ids: Sequence[int] | npt.NDArray[np.integer], bpe: Bpe) -> str:
    """Return what ``ids``, relative to ``block``, say."""
    if block == BINS:
        return ",".join(str(int(number)) for number in ids)
    return bpe.decode(np.asarray(ids, np.int64))


def find_pictures(instruction: Instruction) -> dict[str, str]:
    """Return, for each box that is written, the column of the picture that it lies in."""
    pictures = [
        item.name
        for item in (*instruction.source, *instruction.target)
        if isinstance(item, Slot) and item.modality == PICTURE
    ]
    boxes = {slot.name for slot in instruction.slots if slot.modality == _MODALITY}
    return dict.fromkeys(sorted(boxes), pictures[0]) if pictures else {}


def measure_picture(value: pa.Scalar) -> Size:
    """Return the width and height of an encoded image, in pixels."""
    decoded = DecodeImages()(pa.array([value.as_py()]))
    width, height = MeasureImages()(decoded).to_numpy_ndarray()[0].tolist()
    return width, height


def place_boxes(values: Mapping[str, Said], sizes: Mapping[str, Size]) -> dict[str, Said]:
    """Return ``values`` with boxes in pixels.

    Args:
        values: What was written, by slot.
        sizes: Width and height of the picture of each slot that holds boxes.
    """
    return {
        slot: _place(value, sizes[slot]) if slot in sizes else value
        for slot, value in values.items()
    }


def _place(value: Said, size: Size) -> Said:
    if isinstance(value, list):
        return [_place_one(each, size) for each in value]
    return _place_one(value, size)


def _place_one(text: str, size: Size) -> str:
    bins = [int(number) for number in text.split(",") if number]
    if len(bins) != NUM_CORNERS:
        return text
    return ",".join(f"{corner:.6g}" for corner in place_box(bins, size))
