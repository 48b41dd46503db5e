"""Which row of a table each score of a chunk adds, and what flows back to the rows.

Where codes run on, rows do so along diagonals of a block, and no score is looked up by itself.

Shape letters: as in `taskloom.ops.device.attention.stages`; R = rows of a table.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


class Diagonals(NamedTuple):
    """Rows of a block in which each key adds the next row, and each query begins a row before.

    Attributes:
        first: Row that the first query adds for the first key.
    """

    first: int

    def read(self, table_HR: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return what is added to the scores, which have ``shape``."""
        _, num_queries, num_keys = shape
        begins_at_each = table_HR[:, self._span(num_queries, num_keys)].unfold(1, num_keys, 1)
        # The last query begins first. Flipped, they would not lie as products need them.
        return torch.stack(begins_at_each.unbind(1)[::-1], 1)

    def add(self, table_HR: Tensor, grad: Tensor) -> None:
        """Add the gradient of the scores to that of the table."""
        _, num_queries, num_keys = grad.shape
        span = self._span(num_queries, num_keys)
        width = span.stop - span.start
        # Row by row a place further to the right: scores that add one row lie one below another.
        skewed = grad.new_zeros(num_queries, width)
        band = skewed.as_strided((num_queries, num_keys), (width - 1, 1), num_queries - 1)
        for own_R, own in zip(table_HR[:, span], grad, strict=True):
            band.copy_(own)
            own_R.add_(skewed.sum(0))

    def _span(self, num_queries: int, num_keys: int) -> slice:
        return slice(self.first - num_queries + 1, self.first + num_keys)


class ScoreRows(NamedTuple):
    """A row of its own for each score, as `Chunk.find_rows` tells.

    Attributes:
        row: The rows, shape ``(B * Q * K,)``.
    """

    row: Tensor

    def read(self, table_HR: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return what is added to the scores, which have ``shape``."""
        return table_HR.index_select(1, self.row).view(shape)

    def add(self, table_HR: Tensor, grad: Tensor) -> None:
        """Add the gradient of the scores to that of the table."""
        table_HR.index_add_(1, self.row, grad.view(len(table_HR), -1))


Rows: TypeAlias = Diagonals | ScoreRows
