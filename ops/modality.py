"""The modalities of a model whose feed-forward parts have weights for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..graph.draft import Draft
from ..graph.node import NodeId, Value
from ..graph.planned import Lane
from ..graph.vocabulary import SPECIAL, Vocabulary
from .device.config import ModelConfig
from .device.modality import Blocks, TellModalities, names_of
from .recipe.text import BLOCK, MASK

TEXT: Final = frozenset({SPECIAL, BLOCK, MASK.name})
"""Blocks of ids that are text: what begins, ends and hides it is of it."""


def find_blocks(config: ModelConfig, vocabulary: Vocabulary) -> Blocks:
    """Return the blocks of ids and their modalities; none where all tokens share their weights."""
    if config.ffn == "shared":
        return ()
    stops: list[tuple[int, str]] = []
    stop = 0
    for block in vocabulary.blocks:
        stop += block.size
        stops.append((stop, BLOCK if block.name in TEXT else block.name))
    return tuple(stops)


def find_modalities(blocks: Blocks, lanes: Mapping[str, Lane]) -> tuple[str, ...]:
    """Return the modalities of a stream of ids and ``lanes``; none where tokens share their weights."""
    return names_of(blocks, [lane.kind for lane in lanes.values()]) if blocks else ()


def add_modalities(
    draft: Draft, pack: NodeId, side: str, blocks: Blocks, lanes: Mapping[str, Lane]
) -> dict[str, Value]:
    """Add the node that tells the modalities of a side; return the port it is read at, if there is one."""
    if not blocks:
        return {}
    op = TellModalities(
        blocks=blocks, lanes=tuple(sorted((name, lane.kind) for name, lane in lanes.items()))
    )
    inputs = {f"{name}_places": Value(pack, f"{name}_places") for name in lanes}
    inputs["ids"] = Value(pack, f"{side}_ids")
    return {"modalities": draft.add(op, inputs, address=f"{side}/modalities")}
