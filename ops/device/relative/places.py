"""Places in a slot, and the bias that the difference of two places has.

A *place* is where a token stands within its slot: a number along a line of text, a cell of an image's grid, a
cell of a frame. Each form of slot numbers its places so that a whole number, the *code*, tells them apart by
subtraction: tokens at places with codes ``a`` and ``b`` have the bias of difference ``b - a``. What a
difference means is the same for all tokens, so the bias of attention is a table with one entry per
difference; `Form.rows` says which row of a learned table, the *bucket*, each entry comes from.

Shape letters: P = places of a form, R = differences of a form, all of them in reach of ``base + difference``.

Source: OFASys, ``adaptor/text.py``, ``image_resnet.py`` and ``video_image_sequence.py``, for the buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ....graph.op import Plain

Ints: TypeAlias = npt.NDArray[np.int64]
Items: TypeAlias = tuple[tuple[str, Plain], ...]
"""A mapping as a parameter of an op, which must be hashed: its items, ordered by name."""
FormSpecs: TypeAlias = tuple[tuple[str, Items], ...]
"""Forms of slots by name, each as its ``kind``, which is one of `KINDS`, and what that kind asks for."""

NUM_SPECIAL = 3
"""Last rows of a table of grids: for pairs with the start, which stands in no cell."""


@dataclass(frozen=True, slots=True)
class Form:
    """How places of one kind of slot are told apart.

    Attributes:
        codes_P: Code of each place.
        bases_P: Entry of difference 0, as seen from each place.
        rows: For each learned table that biases come from, the row of every difference; their sum counts.
        sizes: Rows of each of these tables.
    """

    codes_P: Ints
    bases_P: Ints
    rows: Mapping[str, Ints]
    sizes: Mapping[str, int]

    @property
    def num_places(self) -> int:
        """``P``."""
        return len(self.codes_P)

    @property
    def num_differences(self) -> int:
        """``R``."""
        return len(next(iter(self.rows.values())))


def to_items(values: Mapping[str, Plain]) -> Items:
    """Return ``values`` as a parameter of an op."""
    return tuple(sorted(values.items()))


def make_forms(specs: FormSpecs) -> dict[str, Form]:
    """Return the forms that ``specs`` describe, ordered by name, as parameters of ops are."""
    forms: dict[str, Form] = {}
    for name, spec in sorted(specs):
        params: dict[str, Any] = dict(spec)
        forms[name] = KINDS[params.pop("kind")](**params)
    return forms


def find_starts(forms: Mapping[str, Form]) -> dict[str, int]:
    """Return the number of each form's first place, where places are counted through all forms."""
    starts: dict[str, int] = {}
    start = 0
    for name, form in sorted(forms.items()):
        starts[name] = start
        start += form.num_places
    return starts


def line(table: str, num_places: int, *, bucket: int, longest: int) -> Form:
    """Return places along a line, such as tokens of text.

    Args:
        table: Name of the learned table.
        num_places: Most tokens of a slot.
        bucket: Buckets on either side; half of them are single differences.
        longest: Difference, plus one, that the last bucket ends at.
    """
    codes = np.arange(num_places)
    # A key behind the query has a negative difference, and a positive one in OFASys.
    behind = -np.arange(1 - num_places, num_places)
    rows = bucket_line(behind, bucket, longest) + bucket - 1
    return Form(codes, np.full(num_places, num_places - 1), {table: rows}, {table: 2 * bucket - 1})


def grid(
    table: str, num_rows: int, num_columns: int, *, bucket: int, has_start: bool = False
) -> Form:
    """Return places in a grid, in the order of reading.

    Args:
        table: Name of the learned table.
        num_rows: Rows of the grid, at most ``bucket``.
        num_columns: Columns, at most ``bucket``.
        bucket: Rows and columns that the learned table knows.
        has_start: Whether a token before the grid, in no cell, is place 0.
    """
    span = 2 * num_columns - 1
    rows, columns = np.divmod(np.arange(num_rows * num_columns), num_columns)
    codes = rows * span + columns
    last = int(codes[-1])
    size = (2 * bucket - 1) ** 2 + NUM_SPECIAL
    cells = _bucket_grid(np.arange(-last, last + 1), span, num_columns, bucket)
    if not has_start:
        return Form(codes, np.full(len(codes), last), {table: cells}, {table: size})
    # The start lies so far away that its differences are like no other: as a key it meets the entries behind
    # those of the grid; as a query it has a base of its own, behind these.
    start = 2 * last + 1
    as_key = np.full(last + 1, size - 2)
    as_query = np.full(2 * last + 2, size - 3)
    as_query[-1] = size - 1  # to itself
    base = len(cells) + len(as_key) + start
    return Form(
        np.concatenate(([start], codes)),
        np.concatenate(([base], np.full(len(codes), last))),
        {table: np.concatenate((cells, as_key, as_query))},
        {table: size},
    )


def frames(
    table: str,
    num_frames: int,
    *,
    frame_table: str,
    num_rows: int,
    num_columns: int,
    frame_bucket: int,
    bucket: int,
    longest: int,
) -> Form:
    """Return places in a row of frames, frame by frame; biases of the frames and within them add up.

    Args:
        table: Name of the learned table of differences between frames.
        num_frames: Frames of a slot.
        frame_table: Name of the learned table of differences within a frame.
        num_rows: Rows of a frame.
        num_columns: Columns of a frame.
        frame_bucket: As ``bucket`` of `grid`.
        bucket: Buckets on either side.
        longest: Difference of frames, plus one, that the last bucket ends at.
    """
    frame = grid(frame_table, num_rows, num_columns, bucket=frame_bucket)
    # A frame's differences are odd in number and lie evenly about 0, so frames that far apart never meet.
    span = frame.num_differences
    codes = np.add.outer(np.arange(num_frames) * span, frame.codes_P).ravel()
    behind = -np.arange(1 - num_frames, num_frames)
    between = bucket_line(behind, bucket, longest) + bucket - 1
    rows = {name: np.tile(rows_R, len(behind)) for name, rows_R in frame.rows.items()}
    rows[table] = np.repeat(between, span)
    base = (num_frames - 1) * span + span // 2
    return Form(codes, np.full(len(codes), base), rows, {**frame.sizes, table: 2 * bucket - 1})


KINDS: Final[Mapping[str, Callable[..., Form]]] = MappingProxyType(
    {"line": line, "grid": grid, "frames": frames}
)


def position_rows(spec: Items) -> tuple[Ints, int]:
    """Return the row of a position table for each place of a line or a grid, and the number of rows."""
    params: dict[str, Any] = dict(spec)
    if params["kind"] == "line":
        # Two rows more than are used: the first two of fairseq's tables were for padding.
        return np.arange(params["num_places"]), params["num_places"] + 2
    bucket = params["bucket"]
    has_start = params.get("has_start", False)
    rows = grid_ids(params["num_rows"], params["num_columns"], bucket, has_start=has_start)
    return rows, bucket**2 + 1


def grid_ids(num_rows: int, num_columns: int, bucket: int, *, has_start: bool = False) -> Ints:
    """Return the row of a position table that each place of a grid has; row 0 is the start's."""
    cells = np.add.outer(np.arange(num_rows) * bucket, np.arange(num_columns)).ravel() + 1
    return np.concatenate(([0], cells)) if has_start else cells


def bucket_line(behind: Ints, bucket: int, longest: int) -> Ints:
    """Return the bucket, from ``1 - bucket`` to ``bucket - 1``, of keys that lie ``behind`` the query.

    Up to half of the buckets are single differences; the others grow by a constant factor up to ``longest``.
    """
    middle = bucket // 2
    far = np.maximum(np.abs(behind), middle).astype(np.float32)
    # In single precision, as OFASys computes them: ceil would tell the difference at the edges of buckets.
    steps = np.log(far / np.float32(middle)) / np.float32(np.log((longest - 1) / middle))
    # Rounding may carry the last one past the end.
    buckets = np.ceil(steps * np.float32(middle - 1)).astype(np.int64) + middle
    buckets = np.minimum(buckets, bucket - 1)
    return np.where(np.abs(behind) <= middle, behind, np.sign(behind) * buckets)


def _bucket_grid(differences: Ints, span: int, num_columns: int, bucket: int) -> Ints:
    """Return the row of a learned table of grids for each difference of codes."""
    columns = (differences + num_columns - 1) % span - (num_columns - 1)
    rows = (differences - columns) // span
    # As on a line, OFASys counts from the key to the query.
    return (bucket - 1 - rows) * (2 * bucket - 1) + bucket - 1 - columns
