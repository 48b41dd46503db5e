"""The figures of a box: of one node, of the many that look alike, or of a chain of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..view_form import MeasureView, View
from .fold import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the nodes of a box cost together.

    Attributes:
        rows_in: Rows that went in, at the top of a chain.
        rows_out: Rows that came out, at the foot of a chain.
        rejects: Rows that were refused.
        bytes: Bytes of what came out, in memory.
        seconds: Wall time.
        share: Part of the seconds of the lane, from 0 to 1.
    """

    rows_in: int
    rows_out: int
    rejects: int
    bytes: int
    seconds: float
    share: float


def sum_figures(view: View, boxes: Sequence[Box]) -> Figures | None:
    """Return the figures of ``boxes``, one after the other; None where none of their nodes ran."""
    levels = [[m for n in box if (m := view["nodes"][n]["measure"])] for box in boxes]
    every = [measure for level in levels for measure in level]
    if not every:
        return None
    first, last = levels[0], levels[-1]
    return Figures(
        rows_in=sum(measure["rows_in"] for measure in first),
        rows_out=sum(measure["rows_out"] for measure in last),
        rejects=sum(measure["rejects"] for measure in every),
        bytes=sum(measure["bytes"] for measure in last),
        seconds=sum(measure["seconds"] for measure in every),
        share=sum(measure["share"] for measure in every),
    )


class Rebuild(NamedTuple):
    """What a build has to compute anew: how many columns, values and bytes, as far as anybody knows."""

    columns: int
    rows: int | None
    bytes: int | None


def sum_rebuilds(view: View, members: Iterable[int]) -> Rebuild | None:
    """Return what a build has to compute anew of ``members``, None for nothing."""
    changes = [c for n in members if (c := view["nodes"][n]["change"]) and c["rebuilds"]]
    if not changes:
        return None
    rows, sizes = ([c["rows"] for c in changes], [c["bytes"] for c in changes])
    return Rebuild(len(changes), _sum_known(rows), _sum_known(sizes))


def _sum_known(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def lane_measures(view: View, stage: str) -> list[MeasureView]:
    """Return the measures of the nodes of a lane."""
    nodes = (node for node in view["nodes"] if node["stage"] == stage)
    return [measure for node in nodes if (measure := node["measure"]) is not None]
