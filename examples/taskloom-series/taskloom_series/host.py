"""Series: numbers over time at evenly spread points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from taskloom.graph.op import Traits
from taskloom.graph.type import ANY, Layout, Port, Signature
from taskloom.ops.by_hand import takes_columns
from taskloom.ops.errors import RowErrors, bad_row


@dataclass(frozen=True, slots=True, kw_only=True)
class ResampleSeries:
    """Draw each series through evenly spread points, straight between its own.

    Attributes:
        points: Points of the result, at least 2.
    """

    points: int
    traits: ClassVar[Traits] = Traits("resample_series", version=1)

    @property
    def signature(self) -> Signature:
        """Lists of numbers in, rows of one length out."""
        series = Port("series", "float32", (self.points,), Layout.DENSE)
        return Signature(inputs={"values": Port(ANY, ANY)}, outputs={"out": series})

    @takes_columns
    def __call__(self, values: pa.Array) -> pa.Array:
        """Return the series as a fixed shape tensor array of ``(points,)``.

        Raises:
            RowErrors: Some series have no two points, or one that is no number.
        """
        rows = [np.array(row, np.float64) for row in values.to_pylist()]
        is_bad = [len(row) < 2 or not np.isfinite(row).all() for row in rows]
        if any(is_bad):
            message = "a series has two or more points, all of them numbers"
            bad = np.flatnonzero(is_bad).tolist()
            raise RowErrors({i: bad_row("S0003", message, str(rows[i])) for i in bad})
        places = np.linspace(0, 1, self.points)
        made = [np.interp(places, np.linspace(0, 1, len(row)), row) for row in rows]
        flat = np.array(made, np.float32).reshape(-1)
        storage = pa.FixedSizeListArray.from_arrays(pa.array(flat), self.points)
        type_ = pa.fixed_shape_tensor(pa.float32(), [self.points])
        return pa.ExtensionArray.from_storage(type_, storage)
