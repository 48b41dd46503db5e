"""Reading: the columns of a source as values of the graph.

Storage hands over a record batch; these ops pick from it. Missing values stay missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import pyarrow as pa

from ...graph.errors import OpError, suggest
from ...graph.op import Rows, Traits
from ...graph.type import ANY, Port, Signature

SPLIT_COLUMN: Final = "__split__"
"""Reserved column that storage adds to every record batch: 0 train, 1 valid, 2 test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadColumns:
    """Read one column of a source.

    Attributes:
        column: Name of the column.
        dtype: Arrow's name of its type, such as ``"string"``; ``"any"`` takes what is there.
    """

    column: str
    dtype: str = ANY
    traits: ClassVar[Traits] = Traits("read_columns", version=1, rows=Rows.READ, accepts_null=True)

    @property
    def signature(self) -> Signature:
        """Nothing in, one value for each row out."""
        return Signature(inputs={}, outputs={"out": Port(ANY, self.dtype)})

    def __call__(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the column as an array of the type that was promised.

        Raises:
            OpError: There is no such column, or its values are of another type.
        """
        if self.column not in batch.schema.names:
            message = f'the source has no column "{self.column}"'
            raise OpError.of("T0308", message, suggest(self.column, batch.schema.names))
        values = batch.column(self.column)
        if self.dtype in (ANY, str(values.type)):
            return values
        try:
            return values.cast(pa.type_for_alias(self.dtype))
        except (ValueError, pa.ArrowNotImplementedError):
            message = f'column "{self.column}" changed its type'
            help_ = f"expected: {self.dtype}\ngot:      {values.type}"
            raise OpError.of("T0308", message, help_) from None


@dataclass(frozen=True, slots=True)
class ReadSplits:
    """Read which split each row belongs to, as its source was given: 0 train, 1 valid, 2 test."""

    traits: ClassVar[Traits] = Traits("read_splits", version=1, rows=Rows.READ)

    @property
    def signature(self) -> Signature:
        """Nothing in, one split for each row out."""
        return Signature(inputs={}, outputs={"out": Port("split", "uint8")})

    def __call__(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the splits as ``uint8``."""
        return batch.column(SPLIT_COLUMN).cast(pa.uint8())
