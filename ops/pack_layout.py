"""Packs as the graph has them: the node where the documents of all tasks meet, and how they will lie in it.

Nothing here loads torch: this is as far as a build looks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from ..graph.node import NodeId
from ..graph.planned import Lane, Planned
from .host.document import PackDocuments


@dataclass(frozen=True, slots=True, kw_only=True)
class PackLayout:
    """How documents lie in packs, as far as attention may rely on it; no parameter depends on it.

    Attributes:
        tile: Documents cross a multiple of it only if they start at one.
        longest_source: Longest source side in tokens; 0 where that is not known.
        longest_target: Longest target side in tokens; 0 where that is not known.
    """

    tile: int = 128
    longest_source: int = 0
    longest_target: int = 0


UNKNOWN: Final = PackLayout()


def add_pack(planned: Planned) -> NodeId:
    """Add the node that packs the documents of ``planned``, and return it."""
    lanes = {name: _describe(lane) for name, lane in sorted(planned.lanes.items())}
    packing = PackDocuments(lanes=lanes, has_pairs=planned.has_pairs)
    return planned.draft.add(packing, planned.documents, address="pack").node


def _describe(lane: Lane) -> dict[str, object]:
    described = asdict(lane)
    return {key: described[key] for key in ("kind", "dtype", "shape", "length")}
