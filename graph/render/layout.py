"""Where the boxes of a picture stand, and how its edges run: from top to bottom, lane by lane.

Sugiyama's method: boxes get *ranks* by longest path inside their lane; an edge that passes ranks gets
a *bend* in each, a vertex without size; barycentre sweeps order every rank so that few edges cross;
then every vertex moves as near to its neighbours as the others in its rank allow. An edge curves only
between ranks and passes a rank on a vertical line through its bends, so it never runs across a box.

Lengths are in px, x to the right, y down.

Why no library: on the demo, two tasks, thirty tasks and a diff this crosses as rarely as Graphviz' dot (29, 7,
1, 7 times against 31, 7, 1, 7), is as narrow, and needs no program that a wheel cannot bring. igraph and
fast-sugiyama give bends the width of boxes, so their pictures are 13 to 67% wider; igraph is GPL. grandalf
leaves the ranks that keep lanes apart, and is GPL or EPL. The figures are in bench/results/layout_*.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from .order import order_ranks
from .spread import spread

BOX_WIDTH: Final = 264.0
_BOX_GAP: Final = 28.0
_BEND_WIDTH: Final = 14.0
_RANK_GAP: Final = 44.0
_MAX_RANK_GAP: Final = 110.0
_LANE_HEAD: Final = 62.0
_LANE_FOOT: Final = 34.0
_LANE_GAP: Final = 18.0
_MARGIN: Final = 32.0
_MAX_PORT_GAP: Final = 22.0


class Point(NamedTuple):
    """A place in the picture."""

    x: float
    y: float


class Band(NamedTuple):
    """The strip that a lane takes, over the whole width."""

    top: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A laid out picture.

    Attributes:
        width: Width of everything.
        height: Height of everything.
        corners: Upper left corner of each box.
        feet: For each box, where the boxes of its rank end: what is below moves when one of them grows.
        bands: The strip of each lane that has boxes.
        routes: For each edge the points it passes, downwards, an odd number of them: a vertical line
            leads from the first to the second, a curve to the third, and so on in turn.
    """

    width: float
    height: float
    corners: tuple[Point, ...]
    feet: tuple[float, ...]
    bands: Mapping[int, Band]
    routes: Mapping[tuple[int, int], tuple[Point, ...]]


def lay_out(
    heights: Sequence[float], lanes: Sequence[int], edges: Sequence[tuple[int, int]]
) -> Layout:
    """Lay out boxes of `BOX_WIDTH`.

    Args:
        heights: Height of each box.
        lanes: Lane of each box; lower numbers stand higher.
        edges: Pairs of boxes, maker before user, without cycles.
    """
    ranks = rank_boxes(lanes, edges)
    vertex_ranks = list(ranks)
    bends: dict[tuple[int, int], int] = {}
    chains: dict[tuple[int, int], list[int]] = {}
    for edge in edges:
        # An edge that leads back up, against the lanes, is laid out like one that leads down.
        upper, lower = sorted(edge, key=ranks.__getitem__)
        chain = [upper]
        for rank in range(ranks[upper] + 1, ranks[lower]):
            # What one box gives to many runs as one trunk, so its edges share their bends.
            bend = bends.setdefault((upper, rank), len(vertex_ranks))
            vertex_ranks += [rank] if bend == len(vertex_ranks) else []
            chain.append(bend)
        chains[edge] = [*chain, lower]
    links = list(dict.fromkeys(link for chain in chains.values() for link in pairwise(chain)))
    is_bend = [vertex >= len(ranks) for vertex in range(len(vertex_ranks))]
    widths = [_BEND_WIDTH if bend else BOX_WIDTH + _BOX_GAP for bend in is_bend]
    xs = spread(order_ranks(vertex_ranks, links), links, widths, is_bend)
    return _place(heights, lanes, ranks, xs, chains)


def rank_boxes(lanes: Sequence[int], edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return the rank of each box: below everything it uses, and lane below lane."""
    ranks = [0] * len(lanes)
    base = 0
    for lane in sorted(set(lanes)):
        boxes = [box for box, other in enumerate(lanes) if other == lane]
        inside = [(maker, user) for maker, user in edges if lanes[maker] == lanes[user] == lane]
        for box in boxes:
            ranks[box] = base
        ordered = _sort(boxes, inside)
        makers, users = _neighbours(boxes, inside)
        for box in ordered:
            ranks[box] = max([base, *(ranks[maker] + 1 for maker in makers[box])])
        last = max(ranks[box] for box in boxes)
        num_lower = dict.fromkeys(boxes, 0)
        for maker, user in edges:
            if lanes[maker] == lane != lanes[user]:
                num_lower[maker] += 1
        for box in reversed(ordered):
            # Sinking shortens the edges to users and lengthens those to makers.
            num_users = len(users[box]) + num_lower[box]
            if num_users and num_users >= len(makers[box]):
                ranks[box] = min([last, *(ranks[user] - 1 for user in users[box])])
        base = last + 1
    return ranks


def _sort(boxes: Sequence[int], edges: Sequence[tuple[int, int]]) -> list[int]:
    makers, users = _neighbours(boxes, edges)
    missing = {box: len(makers[box]) for box in boxes}
    ordered = [box for box in boxes if not missing[box]]
    for box in ordered:
        for user in users[box]:
            missing[user] -= 1
            if not missing[user]:
                ordered.append(user)
    return ordered


def _neighbours(
    boxes: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    makers: dict[int, list[int]] = {box: [] for box in boxes}
    users: dict[int, list[int]] = {box: [] for box in boxes}
    for maker, user in edges:
        makers[user].append(maker)
        users[maker].append(user)
    return makers, users


def _place(
    heights: Sequence[float],
    lanes: Sequence[int],
    ranks: Sequence[int],
    xs: Sequence[float],
    chains: Mapping[tuple[int, int], Sequence[int]],
) -> Layout:
    shift = _MARGIN + BOX_WIDTH / 2 - min(xs, default=0.0)
    centres = [x + shift for x in xs]
    levels, bands = _stack(heights, lanes, ranks, _reach(ranks, xs, chains))
    ends = _spread_ends(chains, centres)
    routes: dict[tuple[int, int], tuple[Point, ...]] = {}
    for edge, (upper, *bends, lower) in chains.items():
        level = levels[ranks[upper]]
        points = [Point(centres[upper], y) for y in (level.top + heights[upper], level.bottom)]
        for rank, bend in enumerate(bends, ranks[upper] + 1):
            points += [Point(centres[bend], y) for y in levels[rank]]
        routes[edge] = (*points, Point(ends[edge], levels[ranks[lower]].top))
    return Layout(
        width=max(centres, default=0.0) + BOX_WIDTH / 2 + _MARGIN,
        height=max((band.bottom for band in bands.values()), default=0.0),
        corners=tuple(
            Point(centres[box] - BOX_WIDTH / 2, levels[rank].top) for box, rank in enumerate(ranks)
        ),
        feet=tuple(levels[rank].bottom for rank in ranks),
        bands=bands,
        routes=routes,
    )


def _stack(
    heights: Sequence[float], lanes: Sequence[int], ranks: Sequence[int], reach: Mapping[int, float]
) -> tuple[list[Band], dict[int, Band]]:
    """Return the strip of every rank and of every lane; ``reach`` is how far edges go sideways."""
    tallest: dict[int, float] = {}
    lane_of: dict[int, int] = {}
    for height, lane, rank in zip(heights, lanes, ranks, strict=True):
        tallest[rank] = max(tallest.get(rank, 0.0), height)
        lane_of[rank] = lane
    levels: list[Band] = []
    bands: dict[int, Band] = {}
    y = 0.0
    for rank in sorted(tallest):
        lane = lane_of[rank]
        if lane not in bands:
            y += _LANE_GAP if bands else 0.0
            bands[lane] = Band(y, y)
            y += _LANE_HEAD
        else:
            # Edges that go far sideways get room to do so in a slope.
            y += min(_MAX_RANK_GAP, _RANK_GAP + 0.05 * reach.get(rank, 0.0)) - _LANE_FOOT
        levels.append(Band(y, y + tallest[rank]))
        y += tallest[rank] + _LANE_FOOT
        bands[lane] = Band(bands[lane].top, y)
    return levels, bands


def _reach(
    ranks: Sequence[int], xs: Sequence[float], chains: Mapping[tuple[int, int], Sequence[int]]
) -> dict[int, float]:
    """Return, for each rank, how far sideways the edges go that come into it."""
    reach: dict[int, float] = {}
    for chain in chains.values():
        for rank, (upper, lower) in enumerate(pairwise(chain), ranks[chain[0]] + 1):
            reach[rank] = max(reach.get(rank, 0.0), abs(xs[upper] - xs[lower]))
    return reach


def _spread_ends(
    chains: Mapping[tuple[int, int], Sequence[int]], centres: Sequence[float]
) -> dict[tuple[int, int], float]:
    """Return where each edge meets the top of its lower box: side by side, in the order they come."""
    arriving: dict[int, list[tuple[float, tuple[int, int]]]] = {}
    for edge, chain in chains.items():
        arriving.setdefault(chain[-1], []).append((centres[chain[-2]], edge))
    ends: dict[tuple[int, int], float] = {}
    for box, edges in arriving.items():
        gap = min(_MAX_PORT_GAP, (BOX_WIDTH - _MAX_PORT_GAP) / len(edges))
        first = centres[box] - gap * (len(edges) - 1) / 2
        for number, (_, edge) in enumerate(sorted(edges)):
            ends[edge] = first + gap * number
    return ends
