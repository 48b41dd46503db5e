"""Boxes: regions of a picture as coordinate bins, and back.

A *box* is ``x0, y0, x1, y1`` in pixels of the picture as it was given, origin top left, y down. A *bin* is one
of ``num_bins`` points spread evenly over a side of the picture, both ends included. So a box is four ids
whatever becomes of the picture: OFASys, which stretches picture and box to one square first, finds the same.

Source: Pix2Seq, section 2.1 (arXiv:2109.10852), for bins as a vocabulary; OFASys,
``preprocessor/default/box.py``, for the nearest of 1000 points.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...graph.errors import OpError, Problem
from ...graph.op import Rows, Traits
from ...graph.type import ANY, Layout, Port, Signature
from ..by_hand import takes_columns
from ..errors import RowErrors, bad_row
from .group import ITEMS

NUM_BINS: Final = 1000
NUM_CORNERS: Final = 4
"""Numbers of a box, and ids that it becomes."""

SIZE = Port("size", "int32", (2,), Layout.DENSE)

Floats = npt.NDArray[np.float64]

_NUM_SIZED: Final = 6
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


@dataclass(frozen=True, slots=True)
class MeasureImages:
    """Say how large images are."""

    traits: ClassVar[Traits] = Traits("measure_images", version=1)

    @property
    def signature(self) -> Signature:
        """Decoded images in; width and height of each out, in pixels."""
        image = Port("image", "uint8", ("H", "W", 3), Layout.RAGGED)
        return Signature(inputs={"images": image}, outputs={"out": SIZE})

    @takes_columns
    def __call__(self, images: pa.Array) -> pa.Array:
        """Return the sizes as a fixed shape tensor array of ``(2,)``."""
        shapes = images.field("shape").flatten().to_numpy().reshape(-1, 3)
        sizes = np.ascontiguousarray(shapes[:, 1::-1], np.int32)
        storage = pa.FixedSizeListArray.from_arrays(pa.array(sizes.reshape(-1)), 2)
        return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2]), storage)


@dataclass(frozen=True, slots=True)
class RepeatSizes:
    """Give each item of a group the size of its row's picture."""

    traits: ClassVar[Traits] = Traits(
        "repeat_sizes", version=1, rows=Rows.REPEAT, accepts_null=True
    )

    @property
    def signature(self) -> Signature:
        """A size of each row, and the items, in; the size for each item out."""
        return Signature(inputs={"values": SIZE, "items": ITEMS}, outputs={"out": SIZE})

    @takes_columns
    def __call__(self, values: pa.Array, items: pa.Array) -> pa.Array:
        """Return ``values``, which the executor has repeated for each of ``items``."""
        assert len(values) == len(items), "values are repeated before they come here"
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeBoxes:
    """Round each coordinate of boxes to the nearest bin.

    A value is a text such as ``"5,20,80,90.9"`` or a list of numbers: the box, or the box with width and height
    of the picture that it was drawn in behind it.

    Attributes:
        has_pictures: Whether the sizes of pictures are an input, for boxes that do not bring theirs.
        num_bins: Points along a side, at least 2.
    """

    has_pictures: bool = True
    num_bins: int = NUM_BINS
    traits: ClassVar[Traits] = Traits("quantize_boxes", version=1)

    def __post_init__(self) -> None:
        if not 2 <= self.num_bins <= 1 << 16:
            raise OpError.of("T0307", f"num_bins must be from 2 to 65536, got {self.num_bins}")

    @property
    def signature(self) -> Signature:
        """Boxes, and sizes of pictures, in; four ids of the block ``bin`` for each out."""
        sizes = {"sizes": SIZE} if self.has_pictures else {}
        ids = Port("bin", "uint16", ("T",), Layout.RAGGED)
        return Signature(inputs={"values": Port(ANY, ANY), **sizes}, outputs={"out": ids})

    @takes_columns
    def __call__(self, values: pa.Array, sizes: pa.Array | None = None) -> pa.Array:
        """Return the ids of each box as a list array: x and y of the first corner, then of the second.

        Raises:
            RowErrors: A value is no box, has no picture, or leaves it.
            OpError: The values are neither texts nor lists of numbers.
        """
        given_N6 = _read_numbers(values)
        boxes_N4, sizes_N2 = given_N6[:, :NUM_CORNERS], given_N6[:, NUM_CORNERS:]
        if sizes is not None:
            pictures_N2 = sizes.to_numpy_ndarray().reshape(-1, 2)
            sizes_N2 = np.where(np.isnan(sizes_N2), pictures_N2, sizes_N2)
        _refuse_bad(values, boxes_N4, sizes_N2)
        bins_N4 = np.rint(boxes_N4 / np.tile(sizes_N2, 2) * (self.num_bins - 1))
        offsets = np.arange(len(bins_N4) + 1, dtype=np.int32) * NUM_CORNERS
        return pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(bins_N4.astype(np.uint16).reshape(-1))
        )


def place_box(
    bins: npt.ArrayLike, size: tuple[float, float], *, num_bins: int = NUM_BINS
) -> tuple[float, ...]:
    """Return the box in pixels that four ``bins`` stand for, at most half a bin from where it was.

    Args:
        bins: The ids, relative to their block.
        size: Width and height of the picture, in pixels.
        num_bins: Points along a side.
    """
    return tuple((np.asarray(bins, np.float64) / (num_bins - 1) * np.tile(size, 2)).tolist())


def _read_numbers(values: pa.Array) -> Floats:
    """Return six numbers a row: the box, and a size that is NaN where there is none.

    All six are NaN where a value holds another number of them; single ones where they are none.
    """
    lists = _to_lists(values)
    lengths = np.asarray(pc.list_value_length(lists), np.int64)
    numbers = pc.fill_null(lists.flatten(), float("nan")).to_numpy(zero_copy_only=False)
    starts = np.cumsum(lengths) - lengths
    read = np.full((len(values), _NUM_SIZED), np.nan)
    for length in (NUM_CORNERS, _NUM_SIZED):
        rows = np.flatnonzero(lengths == length)
        read[rows, :length] = numbers[starts[rows, None] + np.arange(length)]
        if length == _NUM_SIZED:
            # A size that is none must not be taken for one that is not given.
            rows = rows[np.isnan(read[rows]).any(axis=1)]
            read[rows] = np.nan
    return read


def _to_lists(values: pa.Array) -> pa.Array:
    """Return texts and lists as lists of doubles, NaN for what is no number."""
    dtype = values.type
    if pa.types.is_null(dtype) or pa.types.is_string(dtype) or pa.types.is_large_string(dtype):
        lists = pc.split_pattern(values.cast(pa.string()), ",")
        texts = pc.utf8_trim_whitespace(lists.flatten())
        is_number = pc.match_substring_regex(texts, _NUMBER)
        doubles = pc.if_else(is_number, texts, "nan").cast(pa.float64())
        lengths = np.asarray(pc.list_value_length(lists), np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), doubles)
    is_list = pa.types.is_list(dtype) or pa.types.is_large_list(dtype)
    if is_list or pa.types.is_fixed_size_list(dtype):
        item = dtype.value_type
        if pa.types.is_integer(item) or pa.types.is_floating(item):
            return values.cast(pa.large_list(pa.float64()))
    message = f"values of type {dtype} cannot be read as boxes"
    help_ = 'use texts such as "5,20,80,90.9", or lists of numbers'
    raise OpError.of("T0255", message, help_)


def _refuse_bad(values: pa.Array, boxes_N4: Floats, sizes_N2: Floats) -> None:
    """Check that every value is a box inside its picture.

    Raises:
        RowErrors: Some are not.
    """
    # Written as what must hold, so that NaN is caught as well.
    checks = (
        np.isfinite(boxes_N4),
        np.isfinite(sizes_N2) & (sizes_N2 > 0),
        (boxes_N4 >= 0) & (boxes_N4 <= np.tile(sizes_N2, 2)),
        boxes_N4[:, :2] <= boxes_N4[:, 2:],
    )
    holds_CN = np.stack([check.all(axis=1) for check in checks])
    if not (bad := np.flatnonzero(~holds_CN.all(axis=0)).tolist()):
        return
    reasons: dict[int, Problem] = {}
    for row in bad:
        code, message, help_ = _PROBLEMS[int(holds_CN[:, row].argmin())]
        width, height = sizes_N2[row].tolist()
        message = message.format(width=width, height=height)
        reasons[row] = bad_row(code, message, _show(values[row]), help_)
    raise RowErrors(reasons)


def _show(value: pa.Scalar) -> str:
    given = value.as_py()
    return given if isinstance(given, str) else ",".join(map(str, given))


_PROBLEMS: Final = (
    (
        "T0255",
        "this is no box",
        "a box is x0,y0,x1,y1 in pixels, or these with width and height of the picture behind them",
    ),
    (
        "T0255",
        "nothing says how large the picture of the box is",
        "add an IMAGE slot, or write x0,y0,x1,y1,width,height",
    ),
    (
        "T0256",
        "the box leaves its picture of {width:g} x {height:g} pixels",
        "clip it in the source, if that is what you mean",
    ),
    (
        "T0256",
        "the box ends before it begins",
        "the corner at the top left goes first: x0,y0,x1,y1, not a width and a height",
    ),
)
"""What can be wrong with a box, in the order in which it is looked for."""
