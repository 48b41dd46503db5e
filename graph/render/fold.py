"""Fold: parts of a graph that look alike are drawn once.

Nodes share a box when their surroundings look alike all the way up and down, whatever their parameters and
row sets; thirty tasks of one shape become one. Where that leaves too much to read, it is enough that they
look alike all the way up, and down to the end of their lane: three tasks with different prompts then share
what they do to their images. Nodes of one box have equally much above them, so boxes make no cycle.

Colour refinement can also merge parts that are not isomorphic. A picture may; execution never reads this
module.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ..match import gatherers
from ..view_form import View
from .refine import Colours, number_looks, refine

MAX_BOXES: Final = 400
"""More boxes than this are never drawn."""

FOLD_ABOVE: Final = 40
"""A graph with more nodes is shown folded unless asked otherwise; so is one that folds to more boxes."""

_NUMBER: Final = re.compile(r"\.\d+$")

Box: TypeAlias = tuple[int, ...]
"""The numbers of the nodes that share a box."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn of a view.

    Attributes:
        boxes: The nodes that each box stands for, by their numbers, in the order of the first.
        edges: Pairs of boxes, maker before user, each pair once.
        chains: The boxes that stand for a chain of boxes, and these, by the number of the box.
    """

    boxes: tuple[Box, ...]
    edges: tuple[tuple[int, int], ...]
    chains: Mapping[int, tuple[Box, ...]] = field(default_factory=dict[int, tuple[Box, ...]])


def fold(view: View, *, max_boxes: int = MAX_BOXES) -> Picture:
    """Return the picture of ``view`` with like parts folded, of at most ``max_boxes`` boxes."""
    colours = _refine(view, is_strict=True)
    if len(set(colours)) > min(FOLD_ABOVE, max_boxes):
        colours = _refine(view, is_strict=False)
    if len(set(colours)) > max_boxes:
        colours = _group_by_depth(view)
    if len(set(colours)) > max_boxes:
        colours = _group_by_band(view, max_boxes)
    return _draw(view, colours)


def unfold(view: View) -> Picture:
    """Return the picture of ``view`` with a box for every node."""
    return _draw(view, list(range(len(view["nodes"]))))


def is_large(view: View) -> bool:
    """Whether ``view`` is easier to read folded."""
    return len(view["nodes"]) > FOLD_ABOVE


def _draw(view: View, colours: Colours) -> Picture:
    members: dict[int, list[int]] = {}
    for number, colour in enumerate(colours):
        members.setdefault(colour, []).append(number)
    boxes = {colour: box for box, colour in enumerate(members)}
    pairs = ((boxes[colours[e["maker"]]], boxes[colours[e["user"]]]) for e in view["edges"])
    edges = {(maker, user): None for maker, user in pairs if maker != user}
    return Picture(tuple(map(tuple, members.values())), tuple(edges))


def _refine(view: View, *, is_strict: bool) -> Colours:
    nodes = view["nodes"]
    above: list[list[tuple[str, int]]] = [[] for _ in nodes]
    below: list[list[tuple[str, int]]] = [[] for _ in nodes]
    meets = gatherers(view)
    for edge in view["edges"]:
        port, maker, user = edge["input"], edge["maker"], edge["user"]
        port = _NUMBER.sub("", port) if user in meets else port
        above[user].append((port, maker))
        if is_strict or nodes[maker]["stage"] == nodes[user]["stage"]:
            below[maker].append((port, user))
    return refine((_look(view, number) for number in range(len(nodes))), above, below)


def _group_by_depth(view: View) -> Colours:
    depths = _depths(view)
    return number_looks((_look(view, number), depth) for number, depth in enumerate(depths))


def _group_by_band(view: View, max_boxes: int) -> Colours:
    """Group by stage and by depth in even bands; edges then lead down only, so no cycle appears."""
    depths = _depths(view)
    height = (max(depths) + 1) // (max_boxes // len(view["lanes"])) + 1
    stages = [node["stage"] for node in view["nodes"]]
    return number_looks((stages[number], depth // height) for number, depth in enumerate(depths))


def _look(view: View, number: int) -> Hashable:
    node = view["nodes"][number]
    stored = tuple(output["stored"] is not None for output in node["outputs"])
    change = node["change"]["kind"] if node["change"] else None
    return node["stage"], node["op"], node["scope"], stored, change


def _depths(view: View) -> list[int]:
    depths = [0] * len(view["nodes"])
    for edge in sorted(view["edges"], key=lambda edge: edge["user"]):
        depths[edge["user"]] = max(depths[edge["user"]], depths[edge["maker"]] + 1)
    return depths
