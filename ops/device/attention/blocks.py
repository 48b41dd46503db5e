"""The blocks of a plan, and what all layers need of them.

Shape letters: as in `taskloom.ops.device.attention.stages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .chunks import Ints, plan_chunks
from .rows import Diagonals, Rows, ScoreRows
from .stages import Gathered, Stage, Stretch

Codes: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Code, base and slot of each token, as in `Relative`."""

SCORES_KEPT: Final = 2**18
"""Scores of a head up to which what belongs to each is kept, rather than computed again."""


TOKENS_AT_ONCE: Final = 0.5
"""Share of the streams that a stage gathers, unless one chunk is more: copies of long documents take memory."""


class Blocks:
    """The chunks of a plan, and what layers need of them.

    What is the same for all layers is found once, unless it is much.

    Args:
        lo_N: First key that each query sees.
        hi_N: One past the last.
        num_keys: Keys of the stream.
        tile: Most queries of a block.

    Attributes:
        chunks: The chunks.
        keeps: Whether scores are so few that what belongs to each may be kept.
    """

    def __init__(self, lo_N: Tensor, hi_N: Tensor, num_keys: int, tile: int) -> None:
        self.chunks = plan_chunks(lo_N, hi_N, num_keys, tile)
        is_lost_N = (lo_N < hi_N) & ((lo_N < 0) | (hi_N > num_keys))
        self._lost_N = is_lost_N if bool(is_lost_N.any()) else None
        self._device = lo_N.device
        self._num_queries, self._num_tokens = len(lo_N), len(lo_N) + num_keys
        self.keeps = sum(chunk.size for chunk in self.chunks) <= SCORES_KEPT
        self._masks: dict[int, Tensor] = {}
        self._rows: dict[int, Rows] = {}
        self._rows_of: tuple[Codes, int] | None = None
        self._stages: dict[int, list[Stage]] = {}

    def spoil_lost(self, out_NHD: Tensor) -> Tensor:
        """Return what queries see, NaN where a range leaves the keys."""
        if self._lost_N is None:
            return out_NHD
        return out_NHD.masked_fill(self._lost_N[:, None, None], torch.nan)

    def mask(self, number: int) -> Tensor | None:
        """Return the mask of chunk ``number``, shape ``(B, Q, K)``, unless all is seen."""
        if not self.chunks[number].hides:
            return None
        if number in self._masks:
            return self._masks[number]
        mask_BQK = self._tensor(self.chunks[number].mask())
        if self.keeps:
            self._masks[number] = mask_BQK
        return mask_BQK

    def rows(self, number: int, codes: Codes, num_rows: int) -> Rows:
        """Return the rows that the scores of chunk ``number`` add of a table."""
        if not self._knows(codes, num_rows):
            self._rows_of, self._rows = (codes, num_rows), {}
        if number in self._rows:
            return self._rows[number]
        codes_3N = torch.stack(codes).to("cpu", torch.int32).numpy()
        chunk = self.chunks[number]
        first = chunk.find_diagonal(codes_3N, num_rows)
        if first is not None:
            self._rows[number] = Diagonals(first)
            return self._rows[number]
        rows = ScoreRows(self._tensor(chunk.find_rows(codes_3N, num_rows).ravel()))
        if self.keeps:
            self._rows[number] = rows
        return rows

    def _knows(self, codes: Codes, num_rows: int) -> bool:
        if self._rows_of is None or self._rows_of[1] != num_rows:
            return False
        # Layers of a stack are given the very same codes, and nothing else may be told from a glance.
        return all(one is other for one, other in zip(self._rows_of[0], codes, strict=True))

    def stages(self, num_heads: int) -> list[Stage]:
        """Return the stages of streams with so many heads."""
        if num_heads not in self._stages:
            self._stages[num_heads] = [
                self._stretch(numbers[0])
                if self.chunks[numbers[0]].is_alone
                else self._gather(numbers, num_heads)
                for numbers in self._divide()
            ]
        return self._stages[num_heads]

    def _divide(self) -> Iterator[range]:
        """Yield chunks that are a stage; a key may be in many blocks, and is gathered for each."""
        first, total, most = 0, 0, TOKENS_AT_ONCE * self._num_tokens
        for number, chunk in enumerate(self.chunks):
            size = chunk.query_BQ.size + chunk.key_BK.size
            is_apart = chunk.is_alone or self.chunks[first].is_alone or total + size > most
            if number > first and is_apart:
                yield range(first, number)
                first, total = number, 0
            total += size
        if self.chunks:
            yield range(first, len(self.chunks))

    def _stretch(self, number: int) -> Stretch:
        chunk = self.chunks[number]
        spans = ((int(x[0, 0]), int(x[0, -1]) + 1) for x in (chunk.query_BQ, chunk.key_BK))
        queries, keys = (slice(*span) for span in spans)
        return Stretch(range(number, number + 1), queries, keys)

    def _gather(self, numbers: range, num_heads: int) -> Gathered:
        chunks = [self.chunks[number] for number in numbers]
        query_X = np.concatenate([_spread(chunk.query_BQ, num_heads) for chunk in chunks])
        fillers = [np.tile(chunk.is_filler_BQ.ravel(), num_heads) for chunk in chunks]
        is_filler_X = np.concatenate(fillers)
        put_X = np.where(is_filler_X, self._num_queries * num_heads, query_X)
        key_Y = np.concatenate([_spread(chunk.key_BK, num_heads) for chunk in chunks])
        places = (query_X, np.flatnonzero(is_filler_X), put_X, key_Y)
        shapes = [
            (num_heads * len(each.key_BK), each.query_BQ.shape[1], each.key_BK.shape[1])
            for each in chunks
        ]
        return Gathered(numbers, *map(self._tensor, places), shapes=shapes)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


@lru_cache(maxsize=8)
def find_blocks(
    ranges: bytes, codes: bytes, num_keys: int, tile: int, device: str
) -> tuple[Blocks, Codes | None]:
    """Return the blocks of some ranges, and the codes of their tokens, if there are any; int32 all of them.

    Layers of a compiled stack call one by one, and none tells that it is given what the one before was.
    """
    lo_N, hi_N = _restore_rows(ranges, 2).to(device)
    blocks = Blocks(lo_N, hi_N, num_keys, tile)
    if not codes:
        return blocks, None
    shift_N, code_N, slot_N = _restore_rows(codes, 3).to(device)
    return blocks, (code_N, shift_N + code_N, slot_N)


def _restore_rows(told: bytes, number: int) -> Tensor:
    return torch.frombuffer(bytearray(told), dtype=torch.int32).view(number, -1)


def _spread(of_BQ: Ints, num_heads: int) -> Ints:
    """Return the heads of tokens, the first of all before the second of any."""
    return (of_BQ.ravel() * num_heads + np.arange(num_heads)[:, None]).ravel()
