"""Noise: ids that are masked or replaced, anew in every pass, so that a model learns to do without them.

Both ops work on ids relative to their block and leave the ids they are given as they are. What they draw
depends on the row's key alone.

Source: BART, section 2.2 (arXiv:1910.13461), for masks in the place of spans, and fairseq's
``denoising_dataset.py`` for how spans are drawn; OFASys, ``preprocessor/default/text.py``, where every token
counts as a word, for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...graph.errors import OpError
from ...graph.op import Op, Traits
from ...graph.type import Layout, Port, Signature
from ..by_hand import takes_columns
from ..draw import (
    Keys,
    count_up,
    derive_keys,
    draw_integers,
    draw_uniforms,
    draw_words,
)

Lengths = npt.NDArray[np.int64]

MAX_SPAN: Final = 128
"""Longest span that is drawn, in ids; with the usual mean of 3 none comes near it."""

# What is drawn for a row, each with numbers of its own.
_SPANS, _STARTS, _PLACES, _ARE_RANDOM, _IDS = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceIds:
    """Replace some ids by any of their block, each with the same probability.

    Attributes:
        ratio: Probability that an id is replaced, from 0 to 1.
        num_ids: Ids of the block; all of them are drawn alike.
        kind: Block of the ids.
        dtype: Type of an id: ``"uint8"``, ``"uint16"`` or ``"uint32"``.
    """

    ratio: float
    num_ids: int
    kind: str = "text"
    dtype: str = "uint16"
    traits: ClassVar[Traits] = Traits("replace_ids", version=1, is_random=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", _check_share("ratio", self.ratio))
        _check_ids(self.num_ids, self.num_ids - 1, self.dtype)

    @property
    def signature(self) -> Signature:
        """Ids in, as many ids out."""
        ids = Port(self.kind, self.dtype, ("T",), Layout.RAGGED)
        return Signature(inputs={"ids": ids}, outputs={"out": ids})

    def evaluation(self) -> Op | None:
        """Return nothing: ids are read as they are."""
        return None

    def plan_lengths(self, lengths: Lengths, *, keys: Keys | None) -> Lengths:
        """Return ``lengths``: no id is added or taken."""
        del keys
        return lengths

    @takes_columns
    def __call__(self, ids: pa.Array, *, keys: Keys) -> pa.Array:
        """Return the ids of each row, some of them replaced, for one of ``keys`` a row."""
        values, lengths = _open(ids)
        is_replaced = draw_uniforms(derive_keys(keys, _PLACES), lengths) < self.ratio
        drawn = draw_integers(derive_keys(keys, _IDS), lengths, self.num_ids)
        return _close(np.where(is_replaced, drawn.astype(values.dtype), values), lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSpans:
    """Mask spans of ids, whose lengths follow a Poisson distribution.

    As many ids as ``ratio`` says are covered, rounded up, or fewer where spans overlap or meet the row's end.
    A span of length 0 is a mask put between two ids; no more are put than ids may be covered, so that a row's
    length has a bound.

    Attributes:
        ratio: Share of a row's ids that spans cover, from 0 to 1.
        mask_id: Id that stands for what is masked.
        num_ids: Ids of the block, from which random ones are drawn.
        mean_span: Mean length of a span before the last is cut to the share, in ids.
        replace_length: What stands for a span: -1, a mask for each of its ids; 1, one mask; 0, nothing.
        random_ratio: Probability that a random id stands where a mask would, from 0 to 1; all of a span alike.
        kind: Block of the ids.
        dtype: Type of an id: ``"uint8"``, ``"uint16"`` or ``"uint32"``.
    """

    ratio: float
    mask_id: int
    num_ids: int
    mean_span: float = 3.0
    replace_length: int = -1
    random_ratio: float = 0.0
    kind: str = "text"
    dtype: str = "uint16"
    traits: ClassVar[Traits] = Traits("mask_spans", version=2, is_random=True)

    def __post_init__(self) -> None:
        for name in ("ratio", "random_ratio"):
            object.__setattr__(self, name, _check_share(name, getattr(self, name)))
        object.__setattr__(self, "mean_span", float(self.mean_span))
        if not 0 < self.mean_span <= MAX_SPAN / 4:
            message = f"mean_span must be above 0 and at most {MAX_SPAN // 4}, got {self.mean_span}"
            raise OpError.of("T0307", message)
        if self.replace_length not in (-1, 0, 1):
            raise OpError.of(
                "T0307", f"replace_length must be -1, 0 or 1, got {self.replace_length}"
            )
        if self.mask_id < 0:
            raise OpError.of("T0307", f"mask_id must be at least 0, got {self.mask_id}")
        _check_ids(self.num_ids, max(self.mask_id, self.num_ids - 1), self.dtype)

    @property
    def signature(self) -> Signature:
        """Ids in, ids and masks out."""
        ids = Port(self.kind, self.dtype, ("T",), Layout.RAGGED)
        masked = Port(self.kind, self.dtype, ("M",), Layout.RAGGED)
        return Signature(inputs={"ids": ids}, outputs={"out": masked})

    def evaluation(self) -> Op | None:
        """Return nothing: ids are read as they are."""
        return None

    def plan_lengths(self, lengths: Lengths, *, keys: Keys | None) -> Lengths:
        """Return how many ids and masks each row will have, exactly; without ``keys`` the most it can have."""
        lengths = np.asarray(lengths, np.int64)
        if keys is None:
            return lengths + self._budgets(lengths)
        if self.replace_length == -1:
            spans, counts = self._draw_lengths(self._budgets(lengths), derive_keys(keys, _SPANS))
            return lengths + self._count_inserted(lengths, spans, counts)
        drawn = self._draw(lengths, keys)
        return _sum_rows(drawn.is_kept, lengths) + drawn.num_inserted

    @takes_columns
    def __call__(self, ids: pa.Array, *, keys: Keys) -> pa.Array:
        """Return the ids of each row with masks for its spans, for one of ``keys`` a row."""
        values, lengths = _open(ids)
        spans = self._draw(lengths, keys)
        drawn = draw_integers(derive_keys(keys, _IDS), lengths, self.num_ids)
        stand_in = np.where(spans.is_random, drawn, self.mask_id).astype(values.dtype)
        values = np.where(spans.is_masked, stand_in, values)[spans.is_kept]
        return self._insert(values, _sum_rows(spans.is_kept, lengths), spans.num_inserted, keys)

    def _draw(self, lengths: Lengths, keys: Keys) -> _Spans:
        """Draw the spans of rows that have ``lengths`` ids."""
        spans, counts = self._draw_lengths(self._budgets(lengths), derive_keys(keys, _SPANS))
        rows = np.repeat(np.arange(len(lengths)), counts)
        is_long = spans > 0
        num_long = np.bincount(rows[is_long], minlength=len(lengths))
        # Starts are a random choice of the row's ids without repeats: those that draw the least words.
        token_rows = np.repeat(np.arange(len(lengths)), lengths)
        order = np.lexsort((draw_words(derive_keys(keys, _STARTS), lengths), token_rows))
        starts = order[count_up(lengths) < np.repeat(num_long, lengths)]
        ends = np.repeat(np.cumsum(lengths), num_long)
        stops = np.minimum(starts + spans[is_long], ends)
        total = int(lengths.sum())
        is_start = np.zeros(total, np.bool_)
        is_start[starts] = True
        follows = _cover(starts + 1, stops, total)
        is_random_span = draw_uniforms(derive_keys(keys, _ARE_RANDOM), num_long) < self.random_ratio
        if self.replace_length == -1:
            is_masked, is_kept = is_start | follows, np.ones(total, np.bool_)
        else:
            is_masked = is_start
            is_kept = ~(follows if self.replace_length else is_start | follows)
        return _Spans(
            is_masked=is_masked,
            is_random=_cover(starts[is_random_span], stops[is_random_span], total),
            is_kept=is_kept,
            num_inserted=self._count_inserted(lengths, spans, counts),
        )

    def _budgets(self, lengths: Lengths) -> Lengths:
        """Return how many ids of each row spans may cover."""
        return np.ceil(lengths * self.ratio).astype(np.int64)

    def _count_inserted(self, lengths: Lengths, spans: Lengths, counts: Lengths) -> Lengths:
        """Return how many masks are put between ids of each row: one for each span of length 0."""
        return np.minimum(_sum_rows(spans == 0, counts), self._budgets(lengths))

    def _draw_lengths(self, budgets: Lengths, keys: Keys) -> tuple[Lengths, Lengths]:
        """Return lengths of spans that sum to ``budgets``, end to end, and their number for each row."""
        counts, sums = budgets.copy(), np.zeros_like(budgets)
        cdf = _poisson_cdf(self.mean_span)
        while True:
            spans = np.searchsorted(cdf, draw_uniforms(keys, counts), side="right")
            before = np.cumsum(spans) - spans
            offsets = np.cumsum(counts) - counts
            # Rows without a budget have no span to look at.
            firsts = before[np.minimum(offsets, len(before) - 1)] if len(before) else sums
            before = before - np.repeat(firsts, counts)
            sums = _sum_rows(spans, counts)
            if (sums >= budgets).all():
                break
            # Numbers are counted, so more of them begin with the same ones.
            counts = np.where(sums < budgets, 2 * counts, counts)
        is_used = before < np.repeat(budgets, counts)
        left = np.repeat(budgets, counts) - before
        return np.minimum(spans, left)[is_used], _sum_rows(is_used, counts)

    def _insert(
        self, values: npt.NDArray[Any], lengths: Lengths, num_inserted: Lengths, keys: Keys
    ) -> pa.Array:
        """Return ``values`` with masks at random places among them."""
        whole = lengths + num_inserted
        rows = np.repeat(np.arange(len(whole)), whole)
        places = derive_keys(keys, _PLACES)
        order = np.lexsort((draw_words(places, whole), rows))
        chosen = order[count_up(whole) < np.repeat(num_inserted, whole)]
        made = np.zeros(int(whole.sum()), values.dtype)
        is_inserted = np.zeros(len(made), np.bool_)
        is_inserted[chosen] = True
        made[~is_inserted] = values
        is_random = (
            draw_uniforms(derive_keys(places, _ARE_RANDOM), num_inserted) < self.random_ratio
        )
        drawn = draw_integers(derive_keys(places, _IDS), num_inserted, self.num_ids)
        made[chosen] = np.where(is_random, drawn, self.mask_id)
        return _close(made, whole)


class _Spans(NamedTuple):
    """The spans of some rows, by the ids they cover, end to end."""

    is_masked: npt.NDArray[np.bool_]
    is_random: npt.NDArray[np.bool_]
    is_kept: npt.NDArray[np.bool_]
    num_inserted: Lengths


def _open(ids: pa.Array) -> tuple[npt.NDArray[Any], Lengths]:
    """Return the ids end to end, and how many each row has."""
    offsets = np.asarray(ids.offsets)
    return np.asarray(ids.values)[offsets[0] : offsets[-1]], np.diff(offsets).astype(np.int64)


def _close(values: npt.NDArray[Any], lengths: Lengths) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _sum_rows(values: npt.NDArray[Any], counts: Lengths) -> Lengths:
    """Return the sum of each row's values, of which there are ``counts``."""
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    stops = np.cumsum(counts)
    return sums[stops] - sums[stops - counts]


def _cover(starts: Lengths, stops: Lengths, total: int) -> npt.NDArray[np.bool_]:
    """Return which of ``total`` places lie in some range; ranges that end before they start are empty."""
    steps = np.bincount(starts, minlength=total + 1) - np.bincount(
        np.maximum(stops, starts), minlength=total + 1
    )
    return np.cumsum(steps)[:total] > 0


def _poisson_cdf(mean: float) -> npt.NDArray[np.float64]:
    """Return the probabilities of at most 0, 1, 2 and so on, up to one less than the longest span."""
    shares = [math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(MAX_SPAN)]
    return np.cumsum(shares)


def _check_share(name: str, share: float) -> float:
    if not 0 <= share <= 1:
        raise OpError.of("T0307", f"{name} must be from 0 to 1, got {share}")
    # 0 and 0.0 are one share, and must be one parameter in the plan key.
    return float(share)


def _check_ids(num_ids: int, largest: int, dtype: str) -> None:
    if dtype not in ("uint8", "uint16", "uint32"):
        raise OpError.of("T0307", f"ids are uint8, uint16 or uint32, got {dtype}")
    if num_ids < 1:
        raise OpError.of("T0307", f"num_ids must be at least 1, got {num_ids}")
    if largest > np.iinfo(dtype).max:
        raise OpError.of("T0307", f"id {largest} does not fit {dtype}")
