"""Chunks: blocks of queries and keys, those of about one size together.

A *block* is queries that follow one another, and the keys from the first to the last that any of them sees. It
ends where ranges leave those before, so that documents are blocks of their own wherever they lie, and after so
many queries. The scores of a *chunk* of blocks are one tensor, little of which is masked, even where documents
are much shorter than a tile.

Ranges are read as numbers, which no compiled program can, and no device but the host without waiting.

Shape letters beside those of the package: B = blocks of a chunk; Q and K = queries and keys of each.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

SCORES_AT_ONCE: Final = 2**15
"""Scores of a head in a chunk: few enough to stay in a cache with those of other heads."""
SCORES_OF_A_CHUNK: Final = 2**12
"""Scores of a head that take as long as one more chunk."""
SCORES_OF_A_TOKEN: Final = 16
"""Scores of a head that take as long as moving a token into a block and back."""


class Chunk(NamedTuple):
    """Blocks that are computed at once, filled up to one size with a block's first query, and first key, again.

    Attributes:
        query_BQ: The queries.
        is_filler_BQ: Which of them fill up.
        key_BK: The keys.
        is_filler_BK: Which of them fill up; no query sees those.
        lo_BQ: First key that each query sees.
        hi_BQ: One past the last.
    """

    query_BQ: Ints
    is_filler_BQ: Bools
    key_BK: Ints
    is_filler_BK: Bools
    lo_BQ: Ints
    hi_BQ: Ints

    @property
    def size(self) -> int:
        """Scores of a head."""
        return self.query_BQ.size * self.key_BK.shape[1]

    @property
    def is_alone(self) -> bool:
        """Whether this is one block, which nothing fills up."""
        return len(self.query_BQ) == 1

    @property
    def hides(self) -> bool:
        """Whether any query does not see any of the keys."""
        if not self.is_alone:
            return True
        return bool(self.lo_BQ.max() > self.key_BK[0, 0] or self.hi_BQ.min() <= self.key_BK[0, -1])

    def hide(self) -> Bools:
        """Return which queries do not see which keys, shape ``(B, Q, K)``."""
        # Ranges begin at 0 or behind it, so that no query sees a key of -1.
        key_BK = np.where(self.is_filler_BK, -1, self.key_BK).astype(np.int32)[:, None]
        lo_BQ, hi_BQ = (x.astype(np.int32)[..., None] for x in (self.lo_BQ, self.hi_BQ))
        return (key_BK < lo_BQ) | (key_BK >= hi_BQ)

    def mask(self) -> npt.NDArray[np.float32]:
        """Return 0 where a query sees a key, minus infinity elsewhere, shape ``(B, Q, K)``."""
        return np.where(self.hide(), np.float32(-np.inf), np.float32(0))

    def find_rows(self, codes_3N: npt.NDArray[np.int32], num_rows: int) -> Ints:
        """Return the row that each score adds of a table with three more, shape ``(B, Q, K)``.

        Behind the rows of the table there is one for differences that it lacks, one for other slots and one
        for what is not seen, so that all that is to be known of a score is one look-up.

        Args:
            codes_3N: Code, base and slot of each token.
            num_rows: Rows of the table itself.
        """
        code_N, base_N, slot_N = codes_3N
        of_queries, of_keys = self.query_BQ, self.key_BK
        row_BQK = (base_N - code_N)[of_queries][..., None] + code_N[of_keys][:, None]
        # A negative row is a great one without its sign.
        np.copyto(row_BQK, num_rows, where=row_BQK.view(np.uint32) >= num_rows)
        is_far_BQK = slot_N[of_queries][..., None] != slot_N[of_keys][:, None]
        np.copyto(row_BQK, num_rows + 1, where=is_far_BQK)
        np.copyto(row_BQK, num_rows + 2, where=self.hide())
        return row_BQK.astype(np.int64)

    def find_diagonal(self, codes_3N: npt.NDArray[np.int32], num_rows: int) -> int | None:
        """Return the row that the first query adds for the first key, if codes run on in a single block.

        The next key then adds the row behind it, and the next query adds the row before it.

        Args:
            codes_3N: Code, base and slot of each token.
            num_rows: Rows of the table.
        """
        if not self.is_alone:
            return None
        code_N, base_N, slot_N = codes_3N
        (queries,), (keys,) = self.query_BQ, self.key_BK
        shift, code, slot = (base_N - code_N)[queries], code_N[keys], slot_N[keys]
        first = int(shift[0]) + int(code[0])
        runs_on = (np.diff(shift) == -1).all() and (np.diff(code) == 1).all()
        is_near = (slot == slot[0]).all() and (slot_N[queries] == slot[0]).all()
        are_rows = first - len(queries) >= -1 and first + len(keys) <= num_rows
        return first if runs_on and is_near and are_rows else None


def plan_chunks(lo_N: Tensor, hi_N: Tensor, num_keys: int, tile: int) -> list[Chunk]:
    """Return blocks of at most ``tile`` queries that hold all that is seen, like beside like."""
    lo, hi = torch.stack((lo_N, hi_N)).cpu().numpy().astype(np.int64).clip(0, num_keys)
    seeing = np.flatnonzero(lo < hi)
    if not len(seeing):
        return []
    firsts = _find_firsts(seeing, lo[seeing], hi[seeing], tile)
    start_B, stop_B = seeing[firsts], np.append(seeing[firsts[1:] - 1], seeing[-1]) + 1
    start_key_B = np.minimum.reduceat(lo[seeing], firsts)
    stop_key_B = np.maximum.reduceat(hi[seeing], firsts)
    chunks: list[Chunk] = []
    for own, most_scores in _sort(stop_B - start_B, stop_key_B - start_key_B):
        at_once = max(1, SCORES_AT_ONCE // most_scores)
        for part in np.split(own, range(at_once, len(own), at_once)):
            query_BQ, is_filler_BQ = _fill(start_B[part], stop_B[part])
            key_BK, is_filler_BK = _fill(start_key_B[part], stop_key_B[part])
            ranges = lo[query_BQ], hi[query_BQ]
            chunks.append(Chunk(query_BQ, is_filler_BQ, key_BK, is_filler_BK, *ranges))
    return chunks


def _find_firsts(seeing: Ints, lo: Ints, hi: Ints, tile: int) -> Ints:
    """Return which of the queries that see something are the first of a block."""
    begins = np.ones(len(seeing), np.bool_)
    begins[1:] = (np.diff(seeing) > 1) | (lo[1:] >= hi[:-1]) | (hi[1:] <= lo[:-1])
    firsts = np.flatnonzero(begins)
    within = np.arange(len(seeing)) - np.repeat(firsts, np.diff(firsts, append=len(seeing)))
    return np.flatnonzero(within % tile == 0)


class _Group(NamedTuple):
    """Blocks that are worth computing at once.

    Attributes:
        sizes: Numbers of their sizes.
        num_queries: Most queries of one.
        num_keys: Most keys of one.
        num_blocks: How many there are.
    """

    sizes: list[int]
    num_queries: int
    num_keys: int
    num_blocks: int

    @property
    def cost(self) -> int:
        """What they take, in scores of a head."""
        moved = SCORES_OF_A_TOKEN * (self.num_queries + self.num_keys)
        return self.num_blocks * (self.num_queries * self.num_keys + moved)

    def join(self, other: _Group) -> _Group:
        """Return both as one."""
        return _Group(
            self.sizes + other.sizes,
            max(self.num_queries, other.num_queries),
            max(self.num_keys, other.num_keys),
            self.num_blocks + other.num_blocks,
        )


def _sort(num_queries_B: Ints, num_keys_B: Ints) -> list[tuple[Ints, int]]:
    """Return blocks that are worth computing at once, and the most scores of each."""
    many = 2 * int(num_keys_B.max()) + 8
    size_B = _round_up(num_queries_B, 1) * many + _round_up(num_keys_B, 8)
    sizes, number_B, counts = np.unique(size_B, return_inverse=True, return_counts=True)
    shapes = [divmod(size, many) for size in sizes.tolist()]
    groups: list[_Group] = []
    for number in sorted(
        range(len(shapes)), key=lambda number: shapes[number][0] * shapes[number][1]
    ):
        num_queries, num_keys = shapes[number]
        group = _Group([number], num_queries, num_keys, int(counts[number]))
        if groups:
            both = group.join(groups[-1])
            if both.cost - group.cost - groups[-1].cost <= SCORES_OF_A_CHUNK:
                groups.pop()
                group = both
        groups.append(group)
    owner = np.empty(len(shapes), np.int64)
    for place, group in enumerate(groups):
        owner[group.sizes] = place
    owner_B = owner[number_B]
    return [
        (np.flatnonzero(owner_B == place), group.num_queries * group.num_keys)
        for place, group in enumerate(groups)
    ]


def _round_up(lengths: Ints, step: int) -> Ints:
    """Return ``lengths`` as one of four per doubling, multiples of ``step``, so that few are left."""
    steps = np.maximum(2 ** np.maximum(np.log2(lengths).astype(np.int64) - 2, 0), step)
    return -(-lengths // steps) * steps


def _fill(start_B: Ints, stop_B: Ints) -> tuple[Ints, Bools]:
    """Return as many numbers from each start on as the most need, past a stop the start, and which are such."""
    counted = start_B[:, None] + np.arange((stop_B - start_B).max())
    is_filler = counted >= stop_B[:, None]
    return np.where(is_filler, start_B[:, None], counted), is_filler
