"""Python values as Arrow values: rows of any mapping become columns, each row's values in one canonical form.

Arrays and images become the bytes of an ``.npy`` file: dtype and shape travel with the numbers. Numbers that
are sometimes whole unite to float; nested dicts and lists follow Arrow. What has no Arrow type is refused, by
row and column.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..graph.errors import Problem, SourceError
from .record import SPLIT_COLUMN
from .unify import cast_array, unify_types

PLAIN: Final = (str, int, float, bool, bytes, type(None))
DATED: Final = (date, time, timedelta, Decimal)

Row = Mapping[str, Any]


def to_table(rows: Sequence[Row], *, name: str = "rows", first: int = 0) -> pa.Table:
    """Return ``rows`` as a table; keys that a row lacks are null.

    Columns stand in the order in which their keys first appear.

    Args:
        rows: Mappings from names of columns to values.
        name: What the rows are called in messages.
        first: Number of the first row in messages.

    Raises:
        SourceError: A row is no mapping, or a value has no Arrow type or another one than those before it.
    """
    return make_table(
        [canonical_row(row, name, first + i) for i, row in enumerate(rows)], name, first
    )


def canonical_row(row: object, name: str, number: int) -> dict[str, Any]:
    """Return ``row`` with values that Arrow knows.

    Raises:
        SourceError: It is no mapping of names to values, or a value has no canonical form.
    """
    if not isinstance(row, Mapping):
        message = f'row {number} of "{name}" is a {type(row).__name__}, not a mapping'
        help_ = 'give rows as dicts, such as {"image": …, "label": …}'
        raise SourceError(Problem("T0408", message, help_, row=f"{name}:{number}"))
    canonical: dict[str, Any] = {}
    for column, value in row.items():
        if not isinstance(column, str) or column == SPLIT_COLUMN:
            message = f'row {number} of "{name}" has a column called {column!r}'
            help_ = f'names of columns are text, and "{SPLIT_COLUMN}" is taken'
            raise SourceError(Problem("T0407", message, help_, row=f"{name}:{number}"))
        canonical[column] = _canonical(value, column, name, number)
    return canonical


def canonical_column(values: Sequence[object], column: str, name: str, first: int) -> Any:
    """Return ``values`` of one column as an Arrow array.

    Raises:
        SourceError: A value has no canonical form, or another type than those before it.
    """
    canonical = [_canonical(value, column, name, first + i) for i, value in enumerate(values)]
    return _make_array(canonical, column, name, first)


def array_bytes(arrays: Iterable[np.ndarray[Any, Any]], valid: npt.NDArray[np.bool_]) -> pa.Array:
    """Return the bytes of ``arrays``, one for each row that is ``valid``."""
    each = iter(arrays)
    return pa.array([_canonical_array(next(each)) if v else None for v in valid], pa.binary())


def canonical_value(value: object) -> Any:
    """Return ``value`` as plain Python: arrays and images as ``.npy`` bytes, NumPy scalars as numbers.

    Raises:
        TypeError: It has no canonical form.
    """
    if type(value) in PLAIN:
        return value
    for types, convert in _CONVERSIONS:
        if isinstance(value, types):
            return convert(value)
    if _is_image(value):
        return _image_bytes(value)
    if hasattr(value, "__array__"):
        return _canonical_array(np.asarray(value))
    raise TypeError("it has no Arrow type")


def weigh(value: Any) -> int:
    """Return about how many bytes a canonical ``value`` takes."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list):
        return sum(map(weigh, value))
    if isinstance(value, dict):
        return sum(map(weigh, value.values()))
    return 8


def make_table(rows: Sequence[Mapping[str, Any]], name: str, first: int) -> pa.Table:
    """Return canonical ``rows`` as a table.

    Raises:
        SourceError: The values of a column do not agree in type; the first that differs is named.
    """
    columns = dict.fromkeys(column for row in rows for column in row)
    arrays = {
        column: _make_array([row.get(column) for row in rows], column, name, first)
        for column in columns
    }
    if not arrays:
        return pa.table({"": pa.nulls(len(rows))}).select([])
    return pa.table(arrays)


def cast_column(array: Any, type_: pa.DataType, column: str, name: str, first: int) -> Any:
    """Return ``array`` in ``type_``, a type that unites it with others.

    Raises:
        SourceError: A value does not survive, such as a whole number too large for a float.
    """
    try:
        return cast_array(array, type_)
    except (pa.ArrowException, ValueError) as error:
        row = _first_failing(len(array), lambda n: cast_array(array.slice(0, n), type_))
        raise _refusal(name, first + row, column, array[row].as_py(), str(error)) from error


def conflict(
    name: str, number: int, column: str, got: pa.DataType, before: pa.DataType
) -> SourceError:
    """Return the error for a column whose type changes at row ``number``."""
    message = f'row {number} of "{name}": column "{column}" holds {got}, and {before} before'
    help_ = "make the values of a column agree, for example all text"
    return SourceError(Problem("T0405", message, help_, row=f"{name}:{number}", column=column))


def _canonical(value: object, column: str, name: str, number: int) -> Any:
    try:
        return canonical_value(value)
    except (TypeError, ValueError) as error:
        raise _refusal(name, number, column, value, str(error)) from error


def _make_array(values: list[Any], column: str, name: str, first: int) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        row = _first_failing(len(values), lambda n: pa.array(values[:n]))
        value = values[row]
        try:
            got, before = pa.array([value]).type, pa.array(values[:row]).type
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            raise _refusal(name, first + row, column, value, str(error)) from error
        if unify_types(got, before) is not None:
            raise _refusal(name, first + row, column, value, str(error)) from error
        raise conflict(name, first + row, column, got, before) from error


def _first_failing(length: int, attempt: Callable[[int], object]) -> int:
    """Return the position of the value that makes ``attempt``, on ever longer beginnings, fail."""
    good, bad = 0, length
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            attempt(middle)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            bad = middle
        else:
            good = middle
    return bad - 1


def _refusal(name: str, number: int, column: str, value: object, why: str) -> SourceError:
    what = f"{type(value).__name__} {str(value)[:60]!r}"
    message = f'row {number} of "{name}": column "{column}" holds a {what}: {why}'
    help_ = "give numbers, text, bytes, arrays, PIL images, dates, or lists and dicts of these"
    return SourceError(Problem("T0405", message, help_, row=f"{name}:{number}", column=column))


def _canonical_array(array: np.ndarray[Any, Any]) -> Any:
    if array.ndim == 0 or array.dtype.kind in "US":
        return canonical_value(array.tolist())
    if array.dtype.kind not in "biufc":
        raise TypeError(f"arrays of {array.dtype} have no canonical bytes")
    content = io.BytesIO()
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    np.save(content, np.ascontiguousarray(little), allow_pickle=False)
    return content.getvalue()


def _is_image(value: object) -> bool:
    # Nobody can hold an image without having imported Pillow.
    image = sys.modules.get("PIL.Image")
    return image is not None and isinstance(value, image.Image)


def _image_bytes(image: Any) -> bytes:
    from PIL import ImageOps  # noqa: PLC0415 - sources without images need no Pillow

    upright: Any = ImageOps.exif_transpose(image)
    if upright.mode not in ("L", "RGB", "RGBA", "I;16", "I", "F"):
        has_alpha = upright.mode[-1] in "Aa" or "transparency" in upright.info
        upright = upright.convert("RGBA" if has_alpha else "L" if upright.mode == "1" else "RGB")
    elif "transparency" in upright.info and upright.mode in ("L", "RGB"):
        upright = upright.convert("RGBA")
    return _canonical_array(np.asarray(upright))


# The first that fits: NumPy's floats and texts are Python's too.
_CONVERSIONS: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (np.generic, lambda scalar: canonical_value(scalar.item())),
    (PLAIN + DATED, lambda value: value),
    ((bytearray, memoryview), bytes),
    (PurePath, str),
    (Mapping, lambda mapping: {key: canonical_value(item) for key, item in mapping.items()}),
    ((list, tuple), lambda items: [canonical_value(item) for item in items]),
    (np.ndarray, _canonical_array),
)
