"""Something for both ops to compute."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from taskloom.ops.example import Example

from .device import EmbedWindows
from .host import ResampleSeries

EXAMPLES = (
    Example(op=ResampleSeries(points=4), rows={"values": pa.array([[0.0, 3.0], [1.0, 5.0, 2.0]])}),
    Example(
        op=EmbedWindows(points=4, window=2, model_width=8),
        rows={"series": np.arange(8, dtype=np.float32).reshape(2, 4)},
    ),
)
