"""Examples: an op, and something that it can compute.

They are what the conformance suite tries an op on (`taskloom.ops.testing`), whose results a lock remembers
(`taskloom.ops.lock`), and what ``taskloom ops show`` calls by hand.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ..graph.op import Rows
from ..graph.type import Place
from .draw import Keys, digest_stream, make_keys, number_rows

Examples: TypeAlias = "tuple[Example, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One call.

    Attributes:
        op: The op.
        rows: Inputs of a host op that have one value a row, two rows of them: Arrow arrays by port, a record
            batch as ``batch`` for an op that reads. Inputs of a device op: NumPy arrays by port.
        constants: Inputs that are the same for every row, such as artifacts, by port.
    """

    op: Any
    rows: Mapping[str, Any] = field(default_factory=dict[str, Any])
    constants: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        return f"{self.op}"

    @property
    def name(self) -> str:
        """Name of the op."""
        return self.op.traits.name

    @property
    def num_rows(self) -> int:
        """Rows of the inputs."""
        return max((len(values) for values in self.rows.values()), default=0)

    @property
    def keys(self) -> Keys:
        """A key for each row."""
        return make_example_keys(self.num_rows)

    def call(self, start: int = 0, stop: int | None = None) -> Any:
        """Return what a host op makes of rows ``start`` to ``stop``; a fit, of all of them."""
        stop = self.num_rows if stop is None else stop
        rows = {port: values.slice(start, stop - start) for port, values in self.rows.items()}
        if self.op.traits.rows is Rows.FIT:
            return self.op.finish(self.op.observe(**rows, **self.constants))
        if self.op.traits.rows is Rows.READ:
            return self.op(rows["batch"])
        more = {"keys": self.keys[start:stop]} if self.op.traits.is_random else {}
        return self.op(**rows, **self.constants, **more)

    @property
    def is_computed(self) -> bool:
        """Whether the op computes by itself; some only say what the loader or the store does."""
        return callable(self.op) or self.op.traits.rows is Rows.FIT

    @property
    def is_device(self) -> bool:
        """Whether the op computes on tensors."""
        return self.op.traits.place is Place.DEVICE


def make_example_keys(num_rows: int, *, pass_number: int = 0) -> Keys:
    """Return the keys that random ops are tried with."""
    rows = number_rows("example", np.arange(num_rows))
    stream = digest_stream("example", "example")
    return make_keys(seed=0, stream=stream, pass_number=pass_number, rows=rows)


def load_examples(place: str) -> Examples:
    """Return the examples at ``place``, a ``"module:NAME"``."""
    module, _, name = place.partition(":")
    return tuple(getattr(importlib.import_module(module), name))


def take(values: Any, order: list[int]) -> Any:
    """Return some rows of an Arrow array."""
    indices = pa.array(order, pa.int64())
    if isinstance(values, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(values.type, values.storage.take(indices))
    return values.take(indices)
