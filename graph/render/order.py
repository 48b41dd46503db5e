"""The order of vertices inside their ranks, chosen so that few edges cross.

Barycentre sweeps (Sugiyama, Tagawa and Toda, 1981) move every vertex to the mean place of its
neighbours, rank after rank, down and up in turn; exchanges of neighbours then mend what is left.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, TypeAlias

Rows: TypeAlias = list[list[int]]
_Neighbours: TypeAlias = Sequence[Sequence[int]]

_MAX_SWEEPS: Final = 24
_MAX_IDLE_SWEEPS: Final = 4
_MAX_EXCHANGES: Final = 8


def order_ranks(ranks: Sequence[int], links: Sequence[tuple[int, int]]) -> Rows:
    """Return the vertices of every rank from left to right.

    Args:
        ranks: Rank of each vertex.
        links: Pairs of vertices in neighbouring ranks, upper before lower.
    """
    above, below = neighbours(len(ranks), links)
    starts = [
        _start(ranks, vertices, above, below, is_mirrored=is_mirrored)
        for vertices in (range(len(ranks)), range(len(ranks))[::-1])
        for is_mirrored in (False, True)
    ]
    ends = [_improve(rows, above, below) for rows in starts]
    return min(ends, key=lambda rows: count_crossings(rows, below))


def neighbours(
    num_vertices: int, links: Sequence[tuple[int, int]]
) -> tuple[list[list[int]], list[list[int]]]:
    """Return for each vertex its neighbours in the rank above, and in the rank below."""
    above: list[list[int]] = [[] for _ in range(num_vertices)]
    below: list[list[int]] = [[] for _ in range(num_vertices)]
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    return above, below


def count_crossings(rows: Rows, below: _Neighbours) -> int:
    """Return how many pairs of links cross."""
    total = 0
    for row, next_row in pairwise(rows):
        places = _places(next_row)
        ends: list[int] = []
        for vertex in row:
            here = sorted(places[lower] for lower in below[vertex])
            total += sum(len(ends) - bisect_right(ends, end) for end in here)
            for end in here:
                insort(ends, end)
    return total


def _start(
    ranks: Sequence[int],
    vertices: Sequence[int],
    above: _Neighbours,
    below: _Neighbours,
    *,
    is_mirrored: bool,
) -> Rows:
    """Return the order of a depth-first walk, which keeps together what is connected."""
    rows: Rows = [[] for _ in range(max(ranks, default=-1) + 1)]
    seen: set[int] = set()
    for first in vertices:
        waiting = [first]
        while waiting:
            vertex = waiting.pop()
            if vertex not in seen:
                seen.add(vertex)
                rows[ranks[vertex]].append(vertex)
                near = [*below[vertex], *above[vertex]]
                waiting += near if is_mirrored else reversed(near)
    return rows


def _improve(rows: Rows, above: _Neighbours, below: _Neighbours) -> Rows:
    best, least = rows, count_crossings(rows, below)
    idle = 0
    for sweep in range(_MAX_SWEEPS):
        rows = _sweep(rows, above) if sweep % 2 == 0 else _sweep(rows[::-1], below)[::-1]
        for _ in range(_MAX_EXCHANGES):
            if not _exchange(rows, above, below):
                break
        crossings = count_crossings(rows, below)
        idle = 0 if crossings < least else idle + 1
        if crossings < least:
            best, least = [list(row) for row in rows], crossings
        if idle > _MAX_IDLE_SWEEPS or not least:
            break
    return best


def _sweep(rows: Rows, before: _Neighbours) -> Rows:
    swept = rows[:1]
    for row in rows[1:]:
        places = _places(swept[-1])
        means: dict[int, float] = {}
        for place, vertex in enumerate(row):
            near = [places[other] for other in before[vertex]]
            # A vertex without neighbours keeps its share of the way through the rank.
            means[vertex] = sum(near) / len(near) if near else place * len(places) / len(row)
        swept.append(sorted(row, key=means.__getitem__))
    return swept


def _exchange(rows: Rows, above: _Neighbours, below: _Neighbours) -> bool:
    """Exchange neighbours wherever that removes crossings; say whether it did."""
    has_changed = False
    for number, row in enumerate(rows):
        sides: list[list[list[int]]] = []
        for other, links in ((number - 1, above), (number + 1, below)):
            places = _places(rows[other]) if 0 <= other < len(rows) else {}
            sides.append([sorted(places[end] for end in links[vertex]) for vertex in row])
        for left in range(len(row) - 1):
            gain = sum(_cross(s[left], s[left + 1]) - _cross(s[left + 1], s[left]) for s in sides)
            if gain > 0:
                has_changed = True
                row[left : left + 2] = row[left : left + 2][::-1]
                for side in sides:
                    side[left : left + 2] = side[left : left + 2][::-1]
    return has_changed


def _cross(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(bisect_left(right, end) for end in left)


def _places(row: Sequence[int]) -> Mapping[int, int]:
    return {vertex: place for place, vertex in enumerate(row)}
