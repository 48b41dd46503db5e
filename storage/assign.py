"""Groups of documents to packs.

A group brings whole tiles of the first stream, a run in the second, and tensors. Groups go to packs
largest first. One that takes more than a quarter of a pack goes where it fits most tightly. All
others are dealt: round by round the emptiest packs get one each, the largest group the emptiest pack.

Why the emptiest: best fit for every group makes packs of long documents and packs of short ones. A
step divides its loss by its own weight, so a document among few would count for more than one among
many. Over mixed lengths the number of documents per pack varies by 5% of its mean this way and by
38% with best fit, at the same fill. Best fit wins among documents so long that few fit a pack.

Groups are added many at a time, each to a pack of its own; only those that do not fit where they were
dealt look for another pack one by one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .tile import Groups, Ints

_LARGE: Final = 0.25
_NONE: Final = np.iinfo(np.int64).max
_MAX_KEY: Final = np.iinfo(np.int32).max


class Shape(NamedTuple):
    """A pack's capacities: tiles of the first stream, tiles of the second, length, tensors."""

    tiles: int
    run_tiles: int
    tile: int
    tensors: tuple[int, ...]


def assign_groups(
    groups: Groups, tensors: Ints, shape: Shape, num_packs: int
) -> tuple[Ints, Ints, int]:
    """Assign groups to ``num_packs`` packs, and to further ones where those do not suffice.

    Args:
        groups: What to assign; each group fits a pack alone.
        tensors: Tensors of each group, one row per lane, shape ``(lanes, B)``.
        shape: What a pack holds.
        num_packs: Packs to fill alike, at least 1.

    Returns:
        The pack of each group, where its run starts in it, both of shape ``(B,)``; and how many
        packs there are.
    """
    packs = _Packs(groups, tensors, shape)
    shares = packs.needs / packs.limits
    size = shares.max(axis=0)
    least = np.where(shares, shares, 1.0).min(axis=0)
    is_large = size > _LARGE
    # Short runs share tiles, so that lengths say which stream binds.
    exact = shares.copy()
    exact[1] = groups.run_lengths / (packs.limits[1] * shape.tile)
    binding = exact[exact.sum(axis=1).argmax()]
    left = np.lexsort((-size, np.where(is_large, 0, -binding), ~is_large))
    while len(left):
        packs.begin(num_packs)
        num_large = int(is_large[left].sum())
        _fit_tightly(packs, left[:num_large])
        _deal(packs, left[num_large:], least)
        left = left[packs.pack_of[left] < 0]
        num_packs = max(1, int(shares[:, left].sum(axis=1).max()))
    return packs.pack_of, packs.find_starts(), len(packs)


class _Packs:
    """Packs while groups are added to them, and where those went.

    The rows of what groups need and packs use are tiles, tiles of the second stream, and lanes. Runs leave gaps
    at the ends of tiles. The gap of tile t is kept as ``gap * num_tiles + t``, its *key*: one minimum over keys
    tells the smallest gap and where it is.

    Attributes:
        needs: What each group needs, shape ``(2 + lanes, B)``.
        limits: What a pack holds, at least 1, shape ``(2 + lanes, 1)``.
        used: What is used of each pack, shape ``(2 + lanes, P)``.
        pack_of: The pack of each group, -1 for none yet, shape ``(B,)``.
    """

    def __init__(self, groups: Groups, tensors: Ints, shape: Shape) -> None:
        run_tiles = -(-groups.run_lengths // shape.tile)
        self.needs = np.vstack([groups.num_tiles, run_tiles, tensors])
        limits = [shape.tiles, shape.run_tiles, *shape.tensors]
        self.limits = np.array(limits, np.int64).clip(min=1)[:, None]
        self.used = np.zeros((len(limits), 0), np.int64)
        self.pack_of = np.full(len(groups), -1)
        self._tile = shape.tile
        self._num_tiles = int(self.limits[1, 0])
        self._run_lengths = groups.run_lengths
        # No gap is as long as a tile, so that longer runs need not be told apart.
        shortest = np.minimum(groups.run_lengths, shape.tile)
        self._least_keys = (shortest * self._num_tiles).astype(np.int32)
        # Less the tiles that are used before it, the key of the gap that a run in new tiles leaves.
        left = run_tiles * shape.tile - groups.run_lengths
        self._new_keys = left * self._num_tiles + run_tiles - 1
        self._key_of = np.zeros(len(groups), np.int64)
        self._keys = np.zeros((self._num_tiles, 0), np.int32)

    def __len__(self) -> int:
        return self.used.shape[1]

    def begin(self, number: int) -> None:
        """Begin so many packs more."""
        tiles = np.arange(self._num_tiles, dtype=np.int32)[:, None]
        self._keys = np.hstack([self._keys, np.repeat(tiles, number, axis=1)])
        self.used = np.pad(self.used, ((0, 0), (0, number)))

    def find_starts(self) -> Ints:
        """Return where the run of each group starts in its pack, shape ``(B,)``."""
        left, tile = np.divmod(self._key_of, self._num_tiles)
        ends = (tile + 1) * self._tile - left
        return np.where(self._run_lengths, ends - self._run_lengths, 0)

    def load(self) -> npt.NDArray[np.float64]:
        """Return how full the fullest capacity of each pack is, shape ``(P,)``."""
        return (self.used / self.limits).max(axis=0)

    def find_room(self, groups: Ints) -> npt.NDArray[np.bool_]:
        """Return which packs have room for each of ``groups``, shape ``(N, P)``."""
        fits = self.used[:, None] + self.needs[:, groups, None] <= self.limits[:, None]
        fits[1] |= self._keys.max(axis=0) >= self._least_keys[groups, None]
        return np.logical_and.reduce(fits)

    def add(self, groups: Ints, packs: Ints) -> npt.NDArray[np.bool_]:
        """Add each of ``groups`` to a pack of its own where there is room; return where, shape ``(N,)``."""
        needs, used = self.needs[:, groups], self.used[:, packs]
        # As unsigned numbers, the keys of gaps that are too small are the largest.
        keys = (self._keys[:, packs] - self._least_keys[groups]).view(np.uint32).min(axis=0)
        is_new = keys > _MAX_KEY
        keys = np.where(is_new, self._new_keys[groups] + used[1], keys)
        needs[1] *= is_new
        used += needs
        fits = np.logical_and.reduce(used <= self.limits)
        if not fits.all():
            groups, packs, keys, used = groups[fits], packs[fits], keys[fits], used[:, fits]
        self.used[:, packs] = used
        self.pack_of[groups] = packs
        self._key_of[groups] = keys
        self._keys[keys % self._num_tiles, packs] = keys
        return fits


def _fit_tightly(packs: _Packs, groups: Ints) -> None:
    """Add ``groups``, in this order, each to the fullest pack with room."""
    tiles = packs.needs[0, groups]
    for alike in np.split(groups, np.flatnonzero(np.diff(tiles)) + 1):
        left, is_open = alike, np.ones(len(packs), np.bool_)
        while len(left):
            need = packs.needs[0, left[0]]
            room = packs.limits[0] - packs.used[0]
            room[~is_open | (room < need)] = _NONE
            least = room.min()
            if least == _NONE:
                break
            # No more packs than these groups fill, so that each is filled before another is begun.
            number = -(-len(left) // max(least // max(need, 1), 1))
            tightest = np.flatnonzero(room == least)[:number]
            batch, others = left[: len(tightest)], left[len(tightest) :]
            fits = packs.add(batch, tightest)
            is_open[tightest[~fits]] = False
            left = np.concatenate([batch[~fits], others])


def _deal(packs: _Packs, groups: Ints, least: npt.NDArray[np.float64]) -> None:
    """Add ``groups``, in this order, each to the emptiest pack or another with room."""
    while len(groups):
        load = packs.load()
        emptiest = load.argsort(kind="stable")
        # Those that the emptiest pack will still not be fuller than when it has its group.
        level = load[emptiest[0]] + least[groups[0]]
        number = int(load[emptiest].searchsorted(level, side="right"))
        batch, groups = groups[:number], groups[number:]
        fits = packs.add(batch, emptiest[: len(batch)])
        if not fits.all():
            _add_elsewhere(packs, batch[~fits])


def _add_elsewhere(packs: _Packs, groups: Ints) -> None:
    """Add each of ``groups`` to the emptiest pack with room, if there is one."""
    while len(groups):
        emptiest = packs.load().argsort(kind="stable")
        has_room = packs.find_room(groups)[:, emptiest]
        is_hopeful = has_room.any(axis=1)
        groups, has_room = groups[is_hopeful], has_room[is_hopeful]
        chosen = np.full(len(groups), -1)
        for number, mine in enumerate(has_room):
            first = int(mine.argmax())
            if mine[first]:
                chosen[number] = emptiest[first]
                has_room[:, first] = False
        is_chosen = chosen >= 0
        packs.add(groups[is_chosen], chosen[is_chosen])
        groups = groups[~is_chosen]


__all__ = ["Shape", "assign_groups"]
