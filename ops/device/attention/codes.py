"""Relative biases of one tile: looked up per score, or per diagonal where codes run on.

Where the codes of the queries and those of the keys each go up by one, all scores of a diagonal
have one row of the table. The bias is then a view of a few rows, and its gradient a sum along
diagonals, which takes shifting each line of scores by one more than the line before.

Shape letters beside those of the package: S = diagonals of a tile.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class TileCodes(Protocol):
    """What a tile needs of codes."""

    def bias(self) -> Tensor:
        """Return what is added to the scores, shape ``(H, Q, K)``; NaN where the table ends."""
        ...

    def add_gradient(self, grad_table_HR: Tensor, grad_scores_HQK: Tensor) -> None:
        """Add to the table's gradient what the gradient of the scores says."""
        ...


class Codes:
    """The codes of a stream, and where they run on.

    Args:
        table_HR: Biases, in the type of the scores.
        codes_3N: Base less code, code and slot of each token.
    """

    def __init__(self, table_HR: Tensor, codes_3N: Tensor) -> None:
        self._table_HR, self._codes_3N = table_HR, codes_3N
        step_3N = codes_3N.diff(dim=1)
        step_3N[0] += 1
        step_3N[1] -= 1
        breaks_N = step_3N.any(0).cumsum(0)
        self._runs = [0, *breaks_N.tolist()]

    def of(self, rows: slice, keys: slice) -> TileCodes:
        """Return those of the scores of ``rows`` with ``keys``."""
        if not (self._runs_on(rows) and self._runs_on(keys)):
            return _Scattered(self._table_HR, self._codes_3N[:, rows], self._codes_3N[:, keys])
        shift, _, slot = self._codes_3N[:, rows.start].tolist()
        _, key_code, key_slot = self._codes_3N[:, keys.start].tolist()
        if slot != key_slot:
            return _Unrelated(self._table_HR)
        num_rows, num_keys = rows.stop - rows.start, keys.stop - keys.start
        return _Diagonal(self._table_HR, shift + key_code, num_rows, num_keys)

    def _runs_on(self, tokens: slice) -> bool:
        return self._runs[tokens.start] == self._runs[tokens.stop - 1]


class _Unrelated:
    """Scores of tokens of different slots."""

    def __init__(self, table_HR: Tensor) -> None:
        self._none = table_HR.new_zeros(())

    def bias(self) -> Tensor:
        return self._none

    def add_gradient(self, grad_table_HR: Tensor, grad_scores_HQK: Tensor) -> None:
        pass


class _Diagonal:
    """Scores of which every diagonal has one row of the table."""

    def __init__(self, table_HR: Tensor, row: int, num_queries: int, num_keys: int) -> None:
        num_heads, size = table_HR.shape
        first = row - (num_queries - 1)
        stop = row + num_keys
        self._inside = slice(min(max(first, 0), size), max(min(stop, size), 0))
        self._offset = self._inside.start - first
        self._span_HS = table_HR.new_full((num_heads, stop - first), torch.nan)
        self._count = max(0, self._inside.stop - self._inside.start)
        if self._count:
            self._span_HS[:, self._offset :][:, : self._count] = table_HR[:, self._inside]
        self._num_keys = num_keys

    def bias(self) -> Tensor:
        return self._span_HS.unfold(1, self._num_keys, 1).flip(1)

    def add_gradient(self, grad_table_HR: Tensor, grad_scores_HQK: Tensor) -> None:
        if not self._count:
            return
        num_heads, num_queries, num_keys = grad_scores_HQK.shape
        # Lines that are one shorter than they were laid out begin one later each time.
        laid_HQS = grad_scores_HQK.new_zeros(num_heads, num_queries, num_keys + num_queries)
        laid_HQS[..., :num_keys] = grad_scores_HQK.flip(1)
        shifted = laid_HQS.flatten(1)[:, : num_queries * (num_keys + num_queries - 1)]
        sums_HS = shifted.unflatten(1, (num_queries, -1)).sum(1)
        grad_table_HR[:, self._inside] += sums_HS[:, self._offset :][:, : self._count]


class _Scattered:
    """Scores of which each has a row of the table to itself."""

    def __init__(self, table_HR: Tensor, of_queries_3Q: Tensor, of_keys_3K: Tensor) -> None:
        shift_Q, _, slot_Q = of_queries_3Q.long()
        _, code_K, slot_K = of_keys_3K.long()
        row_QK = shift_Q[:, None] + code_K
        self._row_QK = row_QK.clamp(0, table_HR.shape[1] - 1)
        self._is_outside_QK = row_QK != self._row_QK
        self._is_far_QK = slot_Q[:, None] != slot_K
        self._table_HR = table_HR

    def bias(self) -> Tensor:
        bias_HQK = self._table_HR[:, self._row_QK]
        bias_HQK.masked_fill_(self._is_outside_QK, torch.nan)
        return bias_HQK.masked_fill_(self._is_far_QK, 0)

    def add_gradient(self, grad_table_HR: Tensor, grad_scores_HQK: Tensor) -> None:
        near_HQK = grad_scores_HQK.masked_fill(self._is_far_QK | self._is_outside_QK, 0)
        row_HQK = self._row_QK.expand_as(near_HQK)
        grad_table_HR.scatter_add_(1, row_HQK.flatten(1), near_HQK.flatten(1))
