"""Versions: of taskloom, and of the libraries whose hand is in what ops compute."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from ..graph.node import Node
from ..graph.op import Catalogue


def installed_version(name: str) -> str:
    """Return the version of distribution ``name``, where it is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def library_versions(catalogue: Catalogue, nodes: Iterable[Node]) -> dict[str, str]:
    """Return the versions of the libraries that the ops of ``nodes`` compute with."""
    names = {name for node in nodes for name in catalogue[node.op].traits.libraries}
    return {name: installed_version(name) for name in sorted(names)}
