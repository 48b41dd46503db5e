"""Colour refinement: nodes get one colour when their surroundings look alike.

A class of nodes that some neighbour tells apart is split; the largest part keeps its colour, and only the
neighbours of the others are looked at again. So a node changes colour at most log2(N) times, and a graph of a
thousand tasks costs little more per node than one of ten.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

Colours: TypeAlias = list[int]
Links: TypeAlias = Sequence[Sequence[tuple[str, int]]]
"""For each node the port and the number of each neighbour."""


def number_looks(looks: Iterable[Hashable]) -> Colours:
    """Return a colour for each look: the same one for equal looks, from 0 on, in order."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(look, len(numbers)) for look in looks]


def refine(looks: Iterable[Hashable], above: Links, below: Links) -> Colours:
    """Return the coarsest colours that tell apart looks, and the colours of neighbours at each port.

    Args:
        looks: What each node looks like by itself.
        above: The makers of each node that count.
        below: The users of each node that count.
    """
    colours = number_looks(looks)
    classes: list[set[int]] = [set() for _ in range(max(colours, default=-1) + 1)]
    for node, colour in enumerate(colours):
        classes[colour].add(node)
    near: list[set[int]] = [set() for _ in colours]
    for links in (above, below):
        for node, others in enumerate(links):
            for _, other in others:
                near[other].add(node)
    unsure = set(range(len(colours)))
    while unsure:
        parts = _split(unsure, colours, classes, above, below)
        for part in parts:
            for node in part:
                colours[node] = len(classes)
            classes.append(part)
        unsure = {other for part in parts for node in part for other in near[node]}
    return colours


def _split(
    unsure: set[int], colours: Colours, classes: list[set[int]], above: Links, below: Links
) -> list[set[int]]:
    """Take out of ``classes`` what looks different there, and return it, part by part.

    What is not ``unsure`` has no neighbour whose colour is new, so it looks like none of the unsure nodes.
    """
    looks: dict[int, dict[Hashable, set[int]]] = {}
    for node in unsure:
        look = (
            frozenset((port, colours[maker]) for port, maker in above[node]),
            frozenset((port, colours[user]) for port, user in below[node]),
        )
        looks.setdefault(colours[node], {}).setdefault(look, set()).add(node)
    taken: list[set[int]] = []
    for colour, groups in looks.items():
        parts = sorted(groups.values(), key=len)
        num_sure = len(classes[colour]) - sum(map(len, parts))
        if num_sure < len(parts[-1]):
            largest = parts.pop()
            if num_sure:
                parts.append(classes[colour].difference(largest, *parts))
            classes[colour] = largest
        else:
            classes[colour].difference_update(*parts)
        taken += parts
    return taken
