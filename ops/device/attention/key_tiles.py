"""Tiles of keys as they lie, each with the queries that see some of it: few queries move, and no key does.

It pays where queries are few, as those of short answers to their sources. All keys may be one tile: then
nothing moves, and every score is computed.

Ranges are read as numbers, which no compiled program can, and no device but the host without waiting.

Shape letters: as in the package; Q = places for queries beside a tile; X = all places; S = queries that see
something.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .plan import KeyTiles, mask_all, mask_windows
from .windows import attend_windows

PRICE_OF_BLOCKS: Final = 2**14
"""Scores, all at once, that take as long as the calls that blocks need, whatever they hold."""
PRICE_IN_BLOCKS: Final = 3
"""Scores, all at once, that take as long as one that is seen, in blocks."""
LEAST_TILE: Final = 16
"""Keys of a tile below which more, smaller products gain nothing."""

_Ints: TypeAlias = npt.NDArray[np.int64]


def plan_key_tiles(lo_N: Tensor, hi_N: Tensor, num_keys: int) -> KeyTiles | None:
    """Place queries beside tiles of the size that takes least; nowhere, if blocks take less."""
    lo, hi = torch.stack((lo_N, hi_N)).numpy().astype(np.int64).clip(0, num_keys)
    seeing_S = np.flatnonzero(lo < hi)
    size, least = num_keys, len(lo) * num_keys
    for tile in _sizes(lo[seeing_S], hi[seeing_S], num_keys):
        if (cost := _count_scores(lo[seeing_S] // tile, tile)) < least:
            size, least = tile, cost
    if least > PRICE_OF_BLOCKS + PRICE_IN_BLOCKS * int((hi - lo)[seeing_S].sum()):
        return None
    if size < num_keys:
        return _place(lo_N, hi_N, num_keys, size, seeing_S)
    bias, keep_N11, _ = mask_all(lo_N, hi_N, num_keys)
    return KeyTiles(slice(0, num_keys), num_keys, bias, keep_N11)


def attend_beside_tiles(
    q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, tiles: KeyTiles, scale: float | None
) -> Tensor:
    """Attend from the places of all tiles at once; returns shape ``(N, H, D)``."""
    k_TKHD, v_TKHD = (x[tiles.keys].unflatten(0, (-1, tiles.size)) for x in (k_MHD, v_MHD))
    if tiles.query_X is None or tiles.place_N is None:
        out_NHD = attend_windows(q_NHD[None], k_TKHD, v_TKHD, tiles.bias, scale)[0]
    else:
        q_TQHD = q_NHD.index_select(0, tiles.query_X).unflatten(0, (len(k_TKHD), -1))
        out_TQHD = attend_windows(q_TQHD, k_TKHD, v_TKHD, tiles.bias, scale)
        out_NHD = out_TQHD.flatten(0, 1).index_select(0, tiles.place_N)
    return out_NHD * tiles.keep_N11.to(q_NHD.dtype)


def _sizes(lo_S: _Ints, hi_S: _Ints, num_keys: int) -> list[int]:
    """Return sizes of tiles, below ``num_keys``, whose limits no range crosses."""
    if not len(lo_S):
        return []
    longest = int((hi_S - lo_S).max())
    first = max(LEAST_TILE, 1 << (longest - 1).bit_length())
    sizes = [first << more for more in range((num_keys // first).bit_length())]
    return [
        size
        for size in sizes
        # The last tile that is seen must be whole.
        if int(hi_S.max() - 1) // size < num_keys // size
        and bool((lo_S // size == (hi_S - 1) // size).all())
    ]


def _count_scores(tile_S: _Ints, size: int) -> int:
    """Return the scores of a head, places that are not taken among them."""
    counts = np.bincount(tile_S - tile_S.min())
    return len(counts) * int(counts.max()) * size


def _place(lo_N: Tensor, hi_N: Tensor, num_keys: int, size: int, seeing_S: _Ints) -> KeyTiles:
    """Place the queries ``seeing_S`` beside tiles of ``size`` keys, within which they see."""
    tile_S = lo_N.numpy()[seeing_S].astype(np.int64) // size
    first = int(tile_S.min())
    tile_S -= first
    counts_T = np.bincount(tile_S)
    num_tiles, num_places = len(counts_T), int(counts_T.max())
    order = np.argsort(tile_S, kind="stable")
    in_tile = np.arange(len(order)) - np.repeat(counts_T.cumsum() - counts_T, counts_T)
    place_S = np.empty_like(order)
    place_S[order] = tile_S[order] * num_places + in_tile
    query_X, place_N = torch.zeros(num_tiles * num_places).long(), torch.zeros(len(lo_N)).long()
    seeing, place = torch.from_numpy(seeing_S), torch.from_numpy(place_S)
    query_X[place], place_N[seeing] = seeing, place
    lo_X, hi_X = (x.new_zeros(len(query_X)) for x in (lo_N, hi_N))
    lo_X[place], hi_X[place] = lo_N[seeing], hi_N[seeing]
    starts_T = (first + torch.arange(num_tiles)) * size
    shape = (num_tiles, num_places)
    bias, keep_TQ = mask_windows(lo_X.view(shape), hi_X.view(shape), starts_T, size, num_keys)
    keep_N = torch.zeros(len(lo_N))
    keep_N[seeing] = keep_TQ.flatten()[place]
    keys = slice(first * size, (first + num_tiles) * size)
    return KeyTiles(keys, size, bias, keep_N[:, None, None], query_X, place_N)
