"""Low-impact chains: boxes one after the other that take next to no time share one box.

Where time goes is what a measured picture is read for. Only boxes all of whose nodes ran and were measured
fold: no figure is not a small figure. What refused rows, or changed in a diff, is never hidden so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..view_form import ChangeKind, NodeView, View
from .fold import Box, Picture

LOW_IMPACT: Final = 0.01
"""A chain that takes less than this part of its lane's time is folded."""

MIN_LENGTH: Final = 3
"""Shorter chains stay as they are: a box instead of two saves little and hides much."""


def fold_chains(view: View, picture: Picture) -> Picture:
    """Return ``picture`` with every low-impact chain in one box."""
    links = _link(view, picture)
    head_of = {box: chain[0] for chain in _walk(view, picture, links) for box in chain}
    groups: dict[int, list[int]] = {}
    for box in range(len(picture.boxes)):
        groups.setdefault(head_of.get(box, box), []).append(box)
    # A chain stands where its last box stood: below everything that its boxes use.
    order = sorted(groups.values(), key=lambda group: group[-1])
    place = {box: number for number, group in enumerate(order) for box in group}
    boxes = [tuple(n for box in group for n in picture.boxes[box]) for group in order]
    pairs = ((place[maker], place[user]) for maker, user in picture.edges)
    return Picture(
        tuple(boxes),
        tuple({(maker, user): None for maker, user in pairs if maker != user}),
        {
            number: tuple(picture.boxes[box] for box in group)
            for number, group in enumerate(order)
            if len(group) > 1
        },
    )


def _link(view: View, picture: Picture) -> dict[int, int]:
    """Return which box may follow which: the only user of each, in the same lane and as cheap."""
    users: dict[int, list[int]] = {}
    for maker, user in picture.edges:
        users.setdefault(maker, []).append(user)
    links: dict[int, int] = {}
    followed: set[int] = set()
    for maker, (user, *others) in sorted(users.items()):
        stages = {view["nodes"][picture.boxes[box][0]]["stage"] for box in (maker, user)}
        is_cheap = all(_share(view, picture.boxes[box]) < LOW_IMPACT for box in (maker, user))
        if not others and len(stages) == 1 and is_cheap and user not in followed:
            links[maker] = user
            followed.add(user)
    return links


def _walk(view: View, picture: Picture, links: dict[int, int]) -> Iterator[list[int]]:
    """Yield chains of boxes that together are cheap, and long enough."""
    for head in sorted(set(links) - set(links.values())):
        chain, total = [head], _share(view, picture.boxes[head])
        while (box := links.get(chain[-1])) is not None:
            share = _share(view, picture.boxes[box])
            if total + share >= LOW_IMPACT:
                if len(chain) >= MIN_LENGTH:
                    yield chain
                chain, total = [], 0.0
            chain.append(box)
            total += share
        if len(chain) >= MIN_LENGTH:
            yield chain


def _share(view: View, box: Box) -> float:
    """Return which part of the lane's time ``box`` takes; all of it where it must not be hidden."""
    return sum(_share_of_node(view["nodes"][number]) for number in box)


def _share_of_node(node: NodeView) -> float:
    measure, change = node["measure"], node["change"]
    if measure is None or measure["rejects"] or (change and change["kind"] != ChangeKind.SAME):
        return 1.0
    return measure["share"]
