"""Artifacts: what fit ops leave behind, loaded from their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from ..graph.errors import OpError, suggest
from .host.bpe import Bpe
from .host.closed_set import ClosedSet

ARTIFACTS: Final[Mapping[str, Callable[[bytes], Bpe | ClosedSet]]] = MappingProxyType(
    {
        "bpe": Bpe.from_bytes,
        "closed_set": ClosedSet.from_bytes,
    }
)
"""How to load each kind of artifact; kinds are those of the ports that give them."""


def load_artifact(kind: str, content: bytes) -> Bpe | ClosedSet:
    """Return the artifact of ``kind`` that was stored as ``content``.

    Raises:
        OpError: There is no such kind, or ``content`` is damaged.
    """
    load = ARTIFACTS.get(kind)
    if load is None:
        message = f'unknown kind of artifact "{kind}"'
        raise OpError.of("T0309", message, suggest(kind, ARTIFACTS))
    return load(content)
