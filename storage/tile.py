"""Documents into tiles: which short documents share a tile of a stream.

A stream is cut into *tiles* of equal length. A document starts at a tile, or lies inside one: then
attention over a tile of queries sees one short window of keys. A *group* is the documents that
share tiles of one stream, the first; groups are what packs are made of. In the second stream the
documents of a group follow one another in the same order, as a *run*.

Groups are formed from the longest document down, each put where it fits most tightly: short ones also fill
the last tiles of long ones. Where that leaves much, as it does where documents take about a fifth of a tile
each, what a document leaves of its tiles is filled with those of the others whose lengths add up best, which
takes four to nine times as long and fills such tiles 3% more.

Source: J. N. D. Gupta and J. C. Ho, A new heuristic algorithm for the one-dimensional bin-packing problem,
Production Planning and Control 10 (1999), for filling one bin as well as can be after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

# Tiles as full as this are not tried to be filled better.
_FULL: Final = 0.99


@dataclass(frozen=True, slots=True)
class Groups:
    """Documents that share tiles, as arrays over D documents and B groups.

    Attributes:
        group: Group of each document, shape ``(D,)``.
        first_offsets: Where each document starts in its group's tiles, shape ``(D,)``.
        second_offsets: Where each document starts in its group's run, shape ``(D,)``.
        num_tiles: Tiles of the first stream that each group takes, shape ``(B,)``.
        run_lengths: Length of each group's run, gaps included, shape ``(B,)``.
    """

    group: Ints
    first_offsets: Ints
    second_offsets: Ints
    num_tiles: Ints
    run_lengths: Ints

    def __len__(self) -> int:
        return len(self.num_tiles)


def group_documents(first: Ints, second: Ints, tile: int) -> Groups:
    """Group documents of lengths ``first`` and ``second`` in the two streams, shape ``(D,)``."""
    group, offsets, num_tiles = _fill_tiles(first, tile)
    return _lay_runs(group, offsets, num_tiles, second, tile)


def split_groups(
    groups: Groups,
    which: npt.NDArray[np.bool_],
    first: Ints,
    second: Ints,
    tensors: Ints,
    *,
    tile: int,
    run_tiles: int,
    limits: Sequence[int],
) -> Groups:
    """Return the groups with those in ``which``, shape ``(B,)``, cut into pieces that each fit a pack.

    A piece is as many documents as do, in the order of the group. Alone, the many short documents of a group
    that only has too many tensors would take a tile each.

    Args:
        groups: All groups.
        which: Those that fit no pack.
        first: Length of each document in the first stream, shape ``(D,)``.
        second: Its length in the second one.
        tensors: Its tensors, one row per lane, shape ``(lanes, D)``; it fits a pack alone.
        tile: Length of a tile.
        run_tiles: Tiles of the second stream of a pack.
        limits: Tensors of a pack, by lane.
    """
    order = np.lexsort((groups.first_offsets, groups.group))
    order = order[which[groups.group[order]]]
    heads = _cut(groups.group[order], second[order], tensors[:, order], tile, run_tiles, limits)
    piece = np.cumsum(heads) - 1
    labels, offsets = groups.group.copy(), groups.first_offsets.copy()
    labels[order] = len(groups) + piece
    offsets[order] -= offsets[order[heads]][piece]
    ends = np.zeros(int(heads.sum()), np.int64)
    np.maximum.at(ends, piece, offsets[order] + first[order])
    kept, group = np.unique(labels, return_inverse=True)
    num_tiles = np.concatenate([groups.num_tiles, -(-ends // tile)])[kept]
    return _lay_runs(group, offsets, num_tiles, second, tile)


def _cut(
    owners: Ints, lengths: Ints, tensors: Ints, tile: int, run_tiles: int, limits: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Return which documents, sorted by their groups, begin a piece that fits a pack, shape ``(D,)``."""
    heads = np.zeros(len(owners), np.bool_)
    last, end, held = -1, 0, [0] * len(limits)
    documents = zip(owners.tolist(), lengths.tolist(), tensors.T.tolist(), strict=True)
    for number, (owner, length, own) in enumerate(documents):
        used = end % tile
        # As runs are laid out: a document that crosses a boundary is moved to it.
        end += length + (tile - used if used and used + length > tile else 0)
        held = [sum(pair) for pair in zip(held, own, strict=True)]
        is_over = any(has > limit for has, limit in zip(held, limits, strict=True))
        if owner != last or is_over or end > run_tiles * tile:
            heads[number], last, end, held = True, owner, length, own
    return heads


def restart_sums(values: Ints, owners: Ints) -> Ints:
    """Return for each value the sum of those before it that have the same owner.

    ``owners`` is sorted; both have shape ``(N,)``.
    """
    sums = np.cumsum(values) - values
    heads = np.flatnonzero(np.diff(owners, prepend=-1))
    return sums - np.repeat(sums[heads], np.diff(heads, append=len(owners)))


def _fill_tiles(lengths: Ints, tile: int) -> tuple[Ints, Ints, Ints]:
    """Return the group and the offset of each document, and the tiles of each group."""
    fitted = _fit_best(lengths, tile)
    total = int(lengths.sum())
    is_full = total >= _FULL * tile * int(fitted[2].sum())
    if is_full or int(lengths[lengths < tile].sum()) < total / 2:
        return fitted
    return min(fitted, _fit_sums(lengths, tile), key=lambda found: int(found[2].sum()))


def _fit_best(lengths: Ints, tile: int) -> tuple[Ints, Ints, Ints]:
    """Return what `_fill_tiles` does, having put each document where it fits most tightly.

    Documents of one length go to gaps of one length in one go, no more of them than take all.
    """
    order = np.argsort(-lengths, kind="stable")
    distinct, numbers = np.unique(-lengths, return_counts=True)
    groups: list[int] = []
    taken: list[int] = []
    num_tiles: list[int] = []
    # gaps[g] holds the groups with g free positions; bit g of the mask says that there are some.
    gaps: list[list[int]] = [[] for _ in range(tile)]
    mask = 0
    for length, number in zip((-distinct).tolist(), numbers.tolist(), strict=True):
        missing = number
        while missing:
            fitting = mask >> length if length else 0
            tiles = -(-length // tile)
            gap = length + (fitting & -fitting).bit_length() - 1 if fitting else tiles * tile
            most = -(-missing // (gap // length)) if length else missing
            if fitting:
                these = gaps[gap][-most:]
                del gaps[gap][-most:]
                mask ^= 0 if gaps[gap] else 1 << gap
            else:
                these = list(range(len(num_tiles), len(num_tiles) + most))
                num_tiles += [tiles] * most
            groups += these
            taken += [gap] * len(these)
            missing -= len(these)
            if left := gap - length:
                gaps[left] += these
                mask |= 1 << left
    group, offsets = np.empty((2, len(order)), np.int64)
    group[order], sizes = groups, np.array(num_tiles, np.int64)
    offsets[order] = taken
    return group, sizes[group] * tile - offsets, sizes


def _fit_sums(lengths: Ints, tile: int) -> tuple[Ints, Ints, Ints]:
    """Return what `_fill_tiles` does, having filled what each document leaves with the best sum of others."""
    group = np.empty(len(lengths), np.int64)
    offsets = np.zeros(len(lengths), np.int64)
    num_tiles: list[int] = []
    order = np.argsort(-lengths, kind="stable")
    distinct, firsts = np.unique(-lengths[order], return_index=True)
    documents = {
        -int(length): part.tolist()
        for length, part in zip(distinct, np.split(order, firsts[1:]), strict=True)
    }
    left = {length: len(part) for length, part in documents.items() if length < tile}
    for length, mine in documents.items():
        tiles = -(-length // tile)
        while mine:
            left[length] = len(mine) - 1
            pattern = _find_best(left, tiles * tile - length if length else 0)
            # The same again, for as many as there are of everything in it.
            again = [len(documents[one]) // (k + (one == length)) for one, k in pattern.items()]
            for _ in range(min([*again, len(mine)])):
                at = 0
                for one in (length, *(one for one, k in pattern.items() for _ in range(k))):
                    document = documents[one].pop()
                    group[document], offsets[document] = len(num_tiles), at
                    at += one
                num_tiles.append(tiles)
            left |= {one: len(documents[one]) for one in pattern}
        left.pop(length, None)
    return group, offsets, np.array(num_tiles, np.int64)


def _find_best(left: Mapping[int, int], gap: int) -> dict[int, int]:
    """Return how many documents of each length, of those ``left``, fill ``gap`` best."""
    # Bit s of a mask says that some of the documents looked at take s positions. Long and common lengths are
    # used up first: neither the rare nor the short are then missing at the end.
    mask, inside = 1, (2 << gap) - 1
    steps: list[tuple[int, int]] = []
    for length in sorted(left, key=lambda one: -left[one] * one * one):
        if not 0 < length <= gap or not left[length]:
            continue
        steps.append((length, mask))
        for _ in range(min(left[length], gap // length)):
            mask |= mask << length & inside
        if mask >> gap:
            break
    total = mask.bit_length() - 1
    pattern: dict[int, int] = {}
    for length, before in reversed(steps):
        while not before >> total & 1:
            total -= length
            pattern[length] = pattern.get(length, 0) + 1
    return pattern


def _lay_runs(group: Ints, first_offsets: Ints, num_tiles: Ints, second: Ints, tile: int) -> Groups:
    """Lay the documents of each group out in the second stream, in the order of the first."""
    order = np.lexsort((first_offsets, group))
    owners, lengths = group[order], second[order]
    starts = restart_sums(lengths, owners)
    run_lengths = np.zeros(len(num_tiles), np.int64)
    np.maximum.at(run_lengths, owners, starts + lengths)
    _align_long_runs(owners, lengths, starts, run_lengths, tile)
    second_offsets = np.empty(len(group), np.int64)
    second_offsets[order] = starts
    return Groups(group, first_offsets, second_offsets, num_tiles, run_lengths)


def _align_long_runs(
    owners: Ints, lengths: Ints, starts: Ints, run_lengths: Ints, tile: int
) -> None:
    """In runs longer than a tile, move documents that cross a boundary to it; in place."""
    which = np.flatnonzero(run_lengths[owners] > tile)
    heads = np.flatnonzero(np.diff(owners[which], prepend=-1))
    sizes = np.diff(heads, append=len(which))
    ends = np.zeros(len(heads), np.int64)
    for rank in range(int(sizes.max(initial=0))):
        runs = np.flatnonzero(sizes > rank)
        index = which[heads[runs] + rank]
        used = ends[runs] % tile
        crosses = (used > 0) & (used + lengths[index] > tile)
        starts[index] = ends[runs] + np.where(crosses, tile - used, 0)
        ends[runs] = starts[index] + lengths[index]
    run_lengths[owners[which[heads]]] = ends


__all__ = ["Groups", "Ints", "group_documents", "restart_sums", "split_groups"]
