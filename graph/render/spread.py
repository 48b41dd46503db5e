"""How far apart vertices stand: as near to their neighbours as the others in their rank allow.

The order is given. In one rank, the places nearest to the wished ones (least squares) under the least
distances are found exactly, by pooling adjacent violators; ranks take turns, down and up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Final

from .order import neighbours

_NUM_SWEEPS: Final = 40
_STRAIGHT: Final = 16.0
"""How much more a link between two bends weighs than one between two boxes: long edges stay straight."""


def spread(
    rows: Sequence[Sequence[int]],
    links: Sequence[tuple[int, int]],
    widths: Sequence[float],
    is_bend: Sequence[bool],
) -> list[float]:
    """Return the centre of each vertex; neighbours in a rank do not overlap.

    Args:
        rows: The vertices of each rank, from left to right.
        links: Pairs of vertices in neighbouring ranks.
        widths: Width of each vertex, the space around it included.
        is_bend: Whether a vertex is only a bend of an edge.
    """
    above, below = neighbours(len(widths), links)
    weights = [
        {other: _STRAIGHT if is_bend[vertex] and is_bend[other] else 1.0 for other in (*up, *down)}
        for vertex, (up, down) in enumerate(zip(above, below, strict=True))
    ]
    xs = [0.0] * len(widths)
    for row in rows:
        starts = [0.0, *_distances(row, widths)]
        for vertex, x in zip(row, accumulate(starts), strict=False):
            xs[vertex] = x - sum(starts) / 2
    for sweep in range(_NUM_SWEEPS):
        # The last sweeps look both ways, which evens out what single directions pulled askew.
        is_last = sweep >= _NUM_SWEEPS - 4
        sides = (above, below) if is_last else (above,) if sweep % 2 == 0 else (below,)
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wished, pull = _wish(row, xs, weights, sides)
            placed = fit_row(wished, pull, _distances(row, widths))
            for vertex, x in zip(row, placed, strict=True):
                xs[vertex] = x
    return xs


def fit_row(
    wished: Sequence[float], weights: Sequence[float], distances: Sequence[float]
) -> list[float]:
    """Return the places nearest to ``wished`` of which neighbours are ``distances`` apart or more."""
    shifts = list(accumulate(distances, initial=0.0))
    blocks: list[
        tuple[float, float, int]
    ] = []  # mean, weight and number of what is pushed together
    for want, weight, shift in zip(wished, weights, shifts, strict=False):
        mean, mass, number = want - shift, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, other_mass, other_number = blocks.pop()
            mean = (mean * mass + other * other_mass) / (mass + other_mass)
            mass, number = mass + other_mass, number + other_number
        blocks.append((mean, mass, number))
    means = [mean for mean, _, number in blocks for _ in range(number)]
    return [mean + shift for mean, shift in zip(means, shifts, strict=False)]


def _wish(
    row: Sequence[int],
    xs: Sequence[float],
    weights: Sequence[Mapping[int, float]],
    sides: Sequence[Sequence[Sequence[int]]],
) -> tuple[list[float], list[float]]:
    wished: list[float] = []
    pull: list[float] = []
    for vertex in row:
        near = [other for side in sides for other in side[vertex]]
        mass = sum(weights[vertex][other] for other in near)
        mean = sum(weights[vertex][other] * xs[other] for other in near)
        wished.append(mean / mass if near else xs[vertex])
        pull.append(mass if near else 0.1)
    return wished, pull


def _distances(row: Sequence[int], widths: Sequence[float]) -> list[float]:
    return [(widths[left] + widths[right]) / 2 for left, right in pairwise(row)]
