"""Measures of builds: what every node cost, kept beside the store's columns for whoever asks later.

A build writes one file of its own, ``measures/<id>.json``: builds at the same time do not meet, and one that
is killed leaves what it last wrote. In it stand the figures of each node for each partition. What a node makes
of a partition is always the same, so the last build that computed it is the one to ask: a node that was cached
shows what it cost when it was not. Measures are outside identity: no key and no receipt knows of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from operator import add
from typing import Any, Final, Self

from ...graph.errors import StoreError
from ...graph.graph import Graph
from ...graph.measure import Measure
from ...graph.node import NodeId
from ...storage.store import Store

FORMAT: Final = 1
FIELDS: Final = tuple(field.name for field in fields(Measure))

_WRITE_EVERY_S = 60.0


@dataclass(slots=True)
class BuildMeasures:
    """What a build has measured so far.

    Attributes:
        store: The store that it builds into.
        build: Id of the build.
    """

    store: Store
    build: str
    _measures: dict[str, dict[str, Measure]] = field(default_factory=dict[str, dict[str, Measure]])
    _written: float = field(default_factory=time.monotonic)

    def add(self, place: str, measures: Mapping[NodeId, Measure]) -> None:
        """Add what nodes cost in one job.

        Where a node runs in several jobs over one partition, its rows and bytes are those of one of them, since
        they are the same in all; calls and seconds add up.

        Args:
            place: Source and partition.
            measures: Figures by node.
        """
        for node, measure in measures.items():
            places = self._measures.setdefault(str(node), {})
            places[place] = _again(places[place], measure) if place in places else measure
        if time.monotonic() - self._written > _WRITE_EVERY_S:
            self.write()

    def fitted(self, digest: str, measure: Measure) -> None:
        """Note what it cost to fit the artifact with ``digest``."""
        self._measures[digest] = {_FIT: measure}

    def write(self) -> None:
        """Write what there is, in place of what was written before.

        Raises:
            StoreError: The store cannot be written.
        """
        self._written = time.monotonic()
        if self._measures:
            measures = {
                name: {place: to_row(measure) for place, measure in places.items()}
                for name, places in self._measures.items()
            }
            record = {"format": FORMAT, "fields": FIELDS, "measures": measures}
            self.store.write_measures(self.build, record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.write()
            return
        with suppress(StoreError):  # what ended the build is what is to be told
            self.write()


def build_measures(graph: Graph, store: Store) -> dict[NodeId, Measure]:
    """Return what the nodes of ``graph`` cost in the builds that computed what ``store`` holds now.

    Artifacts that were fitted show what the fit cost. Files that are damaged, or of a later format, are passed
    over: figures are for people, and nothing else depends on them.
    """
    places = {
        _FIT,
        *(f"{s}/{part.id}" for s in store.sources() for part in store.source(s).partitions),
    }
    wanted = {str(node.id): node.id for node in graph}
    wanted |= {str(n.params["digest"]): n.id for n in graph if n.op == "load_artifacts"}
    found: dict[NodeId, dict[str, Measure]] = {}
    for record in store.measures():  # the latest first
        for name, place, measure in _read(record, wanted):
            if place in places:
                found.setdefault(wanted[name], {}).setdefault(place, measure)
    return {node: reduce(add, each.values()) for node, each in found.items()}


def to_row(measure: Measure) -> list[Any]:
    """Return the figures of ``measure`` in the order of `FIELDS`."""
    return [getattr(measure, name) for name in FIELDS]


def from_row(names: Sequence[str], row: Sequence[Any]) -> Measure:
    """Return the measure whose figures ``row`` holds, in the order of ``names``; unknown names are passed over.

    Raises:
        ValueError: It holds something else.
    """
    known = {name: value for name, value in zip(names, row, strict=True) if name in FIELDS}
    if not all(isinstance(value, int | float) for value in known.values()):
        raise ValueError(f"{row} are no figures")
    return Measure(**known)


_FIT = ""
"""The place of a fit, which reads all partitions."""


def _again(first: Measure, second: Measure) -> Measure:
    """Return the measure of a node that ran twice over the same rows."""
    both = first + second
    same = ("rows_in", "rows_out", "rejects", "bytes")
    return replace(both, **{name: getattr(second, name) for name in same})


def _read(record: Any, wanted: Collection[str]) -> Iterator[tuple[str, str, Measure]]:
    """Yield name, place and measure of what is wanted of ``record``, as far as it is well formed."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        if record["format"] != FORMAT:
            return
        for name, rows in record["measures"].items():
            if name in wanted:
                for place, row in rows.items():
                    yield name, place, from_row(record["fields"], row)
