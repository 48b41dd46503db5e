"""A meter: what the nodes of one job cost, added up record batch by record batch.

Counting is cheap enough to be always on: two readings of the clock around a node's call, and a look at what it
gave. Reading a source is one act for all nodes that read it; its time is shared out by the bytes they gave.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from ...graph.measure import Measure
from ...graph.node import NodeId


@dataclass(slots=True)
class Sums:
    """The figures of one node so far; `Measure` says what each is."""

    calls: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rejects: int = 0
    bytes: int = 0
    seconds: float = 0.0
    stored_bytes: int = 0
    writing_seconds: float = 0.0

    def freeze(self, more_seconds: float = 0.0) -> Measure:
        """Return the figures, with ``more_seconds`` on top."""
        return replace(Measure(**asdict(self)), seconds=self.seconds + more_seconds)


@dataclass(slots=True)
class Meter:
    """Figures by node.

    Attributes:
        readers: The nodes that read the source.
    """

    readers: frozenset[NodeId] = frozenset()
    _sums: dict[NodeId, Sums] = field(default_factory=dict[NodeId, Sums])
    _reading_s: float = 0.0

    def of(self, node: NodeId) -> Sums:
        """Return the sums of ``node``, to add to."""
        sums = self._sums.get(node)
        if sums is None:
            sums = self._sums[node] = Sums()
        return sums

    def add(self, node: NodeId, seconds: float, rows_in: int, made: Any) -> None:
        """Add one call of ``node``, which was given ``rows_in`` rows and gave ``made``."""
        sums = self.of(node)
        sums.calls += 1
        sums.seconds += seconds
        sums.rows_in += rows_in
        if isinstance(made, pa.Array):
            sums.bytes += made.nbytes
            if node.rows:
                sums.rows_out += len(made) - made.null_count

    @contextmanager
    def writing(self, node: NodeId) -> Generator[None]:
        """Count the time within as that of writing a column of ``node``."""
        began = time.perf_counter()
        yield
        self.of(node).writing_seconds += time.perf_counter() - began

    def reading(self, batches: Iterable[pa.RecordBatch]) -> Generator[pa.RecordBatch]:
        """Yield ``batches``, and count the time that they take to come."""
        began = time.perf_counter()
        for batch in batches:
            self._reading_s += time.perf_counter() - began
            yield batch
            began = time.perf_counter()

    def measures(self) -> dict[NodeId, Measure]:
        """Return the figures of every node that ran."""
        read = {node: sums.bytes for node, sums in self._sums.items() if node in self.readers}
        total = sum(read.values())
        shares = {
            node: self._reading_s * (size / total if total else 1 / len(read))
            for node, size in read.items()
        }
        return {node: sums.freeze(shares.get(node, 0.0)) for node, sums in self._sums.items()}
