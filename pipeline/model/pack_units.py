"""Units of a pack: what products of a step are done for, and how many of each a pack or some documents have.

``"source"`` and ``"target"`` are positions of a stream, ``"source keys"`` and the like pairs of a query and a
key that it sees, ``"label"`` is one with weight, ``"pair"`` two documents that belong together, ``"pack"`` all
of a pack; lanes of tensors go by their names.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ...ops.device.attention.triton_passes import LARGEST_TILE
from ...storage.pack import Int32s, Pack
from ...storage.template import PAIRS, Documents

LABEL: Final = "label"
PAIR: Final = "pair"
PACK: Final = "pack"
SEEN: Final = {name: f"{name} keys" for name in ("source", "target", "cross")}
"""Pairs of a query and a key, by where attention looks."""


class Count(NamedTuple):
    """How many of a unit there are.

    Attributes:
        used: Those that something is in.
        held: Those that are computed.
    """

    used: float
    held: float


NONE: Final = Count(0, 0)


def count_units(pack: Pack) -> dict[str, Count]:
    """Return how many of each unit ``pack`` has."""
    target = len(pack.target_ids)
    held = {
        "source": len(pack.source_ids),
        "target": target,
        LABEL: target,
        PAIR: len(pack.pair_loss_ids),
        PACK: 1,
        **{lane: len(places) for lane, places in pack.places.items()},
        **{SEEN[name]: _count_in_tiles(*_ranges_of(pack, name)) for name in SEEN},
    }
    return {unit: Count(number, held[unit]) for unit, number in count_used(pack).items()}


def count_used(pack: Pack) -> dict[str, int]:
    """Return how many of each unit something is in."""
    counts = {
        "source": int((pack.source_hi > pack.source_lo).sum()),
        "target": int((pack.target_hi > pack.target_lo).sum()),
        LABEL: int(np.count_nonzero(pack.weights)),
        PAIR: int((pack.pair_loss_ids >= 0).sum()),
        PACK: 1,
    }
    for lane, places in pack.places.items():
        is_used = (places < len(pack.source_ids)).any(axis=tuple(range(1, places.ndim)))
        counts[lane] = int(is_used.sum())
    for name, unit in SEEN.items():
        lo, hi = _ranges_of(pack, name)
        counts[unit] = int((hi - lo).clip(min=0).sum(dtype=np.int64))
    return counts


def count_in_documents(documents: Documents) -> dict[str, float]:
    """Return how many of each unit all of ``documents`` have, every target token taken to be learned."""
    source = documents.source_lengths.astype(np.float64)
    target = documents.target_lengths.astype(np.float64)
    counts = {
        "source": source,
        "target": target,
        LABEL: target,
        SEEN["source"]: source**2,
        SEEN["target"]: target * (target + 1) / 2,
        SEEN["cross"]: source * target,
        **{PAIR if lane == PAIRS else lane: each for lane, each in documents.tensors.items()},
    }
    return {unit: float(each.sum()) for unit, each in counts.items()}


def _ranges_of(pack: Pack, name: str) -> tuple[Int32s, Int32s]:
    return getattr(pack, f"{name}_lo"), getattr(pack, f"{name}_hi")


def _count_in_tiles(lo: Int32s, hi: Int32s) -> int:
    """Return the pairs of a query and a key in the tiles that hold any which attention sees."""
    sees = hi > lo
    pad = -len(lo) % LARGEST_TILE
    first = np.pad(np.where(sees, lo, np.iinfo(np.int32).max), (0, pad), mode="edge")
    last = np.pad(np.where(sees, hi, 0), (0, pad), mode="edge")
    first, last = (x.reshape(-1, LARGEST_TILE) for x in (first, last))
    num_keys = (last.max(1).astype(np.int64) - first.min(1)).clip(min=0) if len(lo) else np.zeros(0)
    tiles = -(-num_keys // LARGEST_TILE)
    return int(tiles.sum()) * LARGEST_TILE**2
