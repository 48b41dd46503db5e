"""Packs: which documents share a static shape, where each of them stands, and what comes of it.

A *pack* is two flat streams of fixed length, source and target, and lanes of tensors. In both
streams its documents stand in the same order. A document that is longer than a tile starts at a
tile, a shorter one never crosses from one tile into the next.

Documents first share tiles of the stream that binds (`tile`), then their groups are assigned to
packs (`assign`). Both steps are plain functions of the lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from .assign import Shape, assign_groups
from .capacity import Capacity, measure_load
from .tile import Groups, Ints, group_documents, restart_sums, split_groups

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """One static-shape batch that holds samples of many tasks.

    NS and NT are the lengths of the streams, I the tensors of a lane, D the documents. A query at
    some position may see the keys in ``[lo, hi)`` of that position.

    Attributes:
        source_ids: What the encoder reads, pad id under tensors, shape ``(NS,)``.
        source_positions: Position inside the document, shape ``(NS,)``.
        source_lo: First source key: the document's start, shape ``(NS,)``.
        source_hi: End of the source keys: the document's end, shape ``(NS,)``.
        target_ids: What the decoder reads, shape ``(NT,)``.
        labels: What it is asked for, shape ``(NT,)``.
        weights: What each label counts in the loss, shape ``(NT,)``.
        loss_ids: Number of the loss that each label counts in, shape ``(NT,)``.
        target_positions: Position inside the document, shape ``(NT,)``.
        target_lo: First target key: the document's start, shape ``(NT,)``.
        target_hi: End of the target keys: one past the query, shape ``(NT,)``.
        cross_lo: First source key of a target query, shape ``(NT,)``.
        cross_hi: End of the source keys of a target query, shape ``(NT,)``.
        tensors: Values of each lane, zero where unused, shape ``(I, ...)``.
        places: Source positions of each lane's tensors, NS where unused, shape ``(I, length)``.
        pair_ranges: Start and end of both halves of each pair, shape ``(P, 2, 2)``.
        pair_loss_ids: Number of the loss that each pair counts in, -1 where unused, shape ``(P,)``.
        rows: Template number and global row of each document, shape ``(D, 2)``.
        source_ranges: Start and end of each document in the source stream, shape ``(D, 2)``.
        target_ranges: Start and end of each document in the target stream, shape ``(D, 2)``.
    """

    source_ids: Int32s
    source_positions: Int32s
    source_lo: Int32s
    source_hi: Int32s
    target_ids: Int32s
    labels: Int32s
    weights: npt.NDArray[np.float32]
    loss_ids: Int32s
    target_positions: Int32s
    target_lo: Int32s
    target_hi: Int32s
    cross_lo: Int32s
    cross_hi: Int32s
    tensors: Mapping[str, npt.NDArray[Any]]
    places: Mapping[str, Int32s]
    pair_ranges: Int32s
    pair_loss_ids: Int32s
    rows: npt.NDArray[np.int64]
    source_ranges: Int32s
    target_ranges: Int32s


def fingerprint(packs: Sequence[Pack]) -> str:
    """Return a digest of every byte of ``packs``, 16 hexadecimal digits: equal steps have equal ones."""
    return join_fingerprints([fingerprint_pack(pack) for pack in packs])


def fingerprint_pack(pack: Pack) -> str:
    """Return a digest of every byte of ``pack``, 16 hexadecimal digits."""
    digest = xxhash.xxh3_64()
    arrays = [(field.name, getattr(pack, field.name)) for field in fields(pack)]
    plain = [(name, value) for name, value in arrays if not isinstance(value, Mapping)]
    lanes = [(lane, array) for each in (pack.tensors, pack.places) for lane, array in each.items()]
    for name, array in (*plain, *lanes):
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def join_fingerprints(parts: Sequence[str]) -> str:
    """Return the digest of a step whose packs have the digests ``parts``; that of one pack is its own."""
    return parts[0] if len(parts) == 1 else xxhash.xxh3_64_hexdigest("".join(parts).encode())


class Placement(NamedTuple):
    """Where documents stand.

    Attributes:
        packs: Pack of each document, shape ``(D,)``.
        source_starts: Position of its first source id, shape ``(D,)``.
        target_starts: Position of its first target id, shape ``(D,)``.
        order: The documents sorted by pack, then by position in both streams, shape ``(D,)``.
        num_packs: How many packs there are.
    """

    packs: Ints
    source_starts: Ints
    target_starts: Ints
    order: Ints
    num_packs: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """Documents that have been given tiles, but no packs yet.

    Attributes:
        groups: The documents that share tiles.
        tensors: Tensors of each group, one row per lane, shape ``(lanes, B)``.
        shape: What a pack holds.
        is_source_first: Whether tiles are of the source stream, runs of the target; or else.
    """

    groups: Groups
    tensors: Ints
    shape: Shape
    is_source_first: bool

    @property
    def least_packs(self) -> float:
        """How many packs are full of these tiles and tensors, if groups could be cut."""
        needs = [self.groups.num_tiles.sum(), *self.tensors.sum(axis=1)]
        limits = [self.shape.tiles, *self.shape.tensors]
        return max(int(need) / max(limit, 1) for need, limit in zip(needs, limits, strict=True))

    def place(self, num_packs: int) -> Placement:
        """Place the documents in ``num_packs`` packs, and in more where those do not suffice."""
        groups = self.groups
        packs, run_starts, num_packs = assign_groups(groups, self.tensors, self.shape, num_packs)
        # Empty runs first, so that no document ends behind the start of the next.
        sequence = np.lexsort((groups.run_lengths > 0, run_starts, packs))
        rank = np.empty(len(groups), np.int64)
        rank[sequence] = np.arange(len(groups))
        tile_starts = restart_sums(groups.num_tiles[sequence], packs[sequence])[rank]
        first_starts = tile_starts[groups.group] * self.shape.tile + groups.first_offsets
        second_starts = run_starts[groups.group] + groups.second_offsets
        return Placement(
            packs=packs[groups.group],
            source_starts=first_starts if self.is_source_first else second_starts,
            target_starts=second_starts if self.is_source_first else first_starts,
            order=np.lexsort((groups.first_offsets, rank[groups.group])),
            num_packs=num_packs,
        )


def tile_documents(source: Ints, target: Ints, tensors: Ints, capacity: Capacity) -> Tiling:
    """Give tiles to documents, each of which fits a pack alone.

    Args:
        source: Source positions of each document, shape ``(D,)``.
        target: Target positions of each document, shape ``(D,)``.
        tensors: Tensors of each document, one row per lane, shape ``(lanes, D)``.
        capacity: What a pack holds.
    """
    load = measure_load(source, target, tensors, capacity).sum(axis=1)
    # The stream that binds is tiled first, since the other one is laid out in its order.
    is_source_first = bool(load[0] >= load[1])
    first, second = (source, target) if is_source_first else (target, source)
    tile = capacity.tile
    sizes = (capacity.source, capacity.target)
    tiles, run_tiles = (size // tile for size in (sizes if is_source_first else sizes[::-1]))
    shape = Shape(tiles, run_tiles, tile, capacity.limits)
    groups = group_documents(first, second, tile)
    sums = _sum_by_group(groups, tensors)
    too_big = -(-groups.run_lengths // tile) > shape.run_tiles
    too_big |= (sums > np.array(shape.tensors, np.int64)[:, None]).any(axis=0)
    if too_big.any():
        groups = split_groups(
            groups,
            too_big,
            first,
            second,
            tensors,
            tile=tile,
            run_tiles=run_tiles,
            limits=shape.tensors,
        )
        sums = _sum_by_group(groups, tensors)
    return Tiling(groups, sums, shape, is_source_first)


def _sum_by_group(groups: Groups, tensors: Ints) -> Ints:
    sums = [np.bincount(groups.group, weights=row, minlength=len(groups)) for row in tensors]
    return np.array(sums, np.int64).reshape(len(tensors), len(groups))


__all__ = [
    "Int32s",
    "Pack",
    "Placement",
    "Tiling",
    "fingerprint",
    "fingerprint_pack",
    "join_fingerprints",
    "tile_documents",
]
