"""What a run has to compute for its packs: useful FLOP, which counting what is in a pack gives.

A program is traced once, before the first step (`work`), learning what it learns in the run. For every pack,
and for documents that are still to come, units are counted, and each has its price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from ...storage.pack import Pack
from ...storage.template import Documents
from ..loader.stream import Stream
from .pack_units import count_in_documents, count_used
from .work import Prepare, trace_work


@dataclass(frozen=True, slots=True)
class Demand:
    """What packs of a run demand.

    Attributes:
        prices: Useful FLOP of one of each unit.
    """

    prices: Mapping[str, float]

    @classmethod
    def of(cls, stream: Stream, prepare: Prepare = lambda *_: None) -> Self:
        """Return the demand of packs of ``stream``; no random numbers are drawn.

        Args:
            stream: What the run learns from.
            prepare: Lets the program learn what it learns in the run.
        """
        return cls(trace_work(stream.plan, stream.blank(), prepare).useful())

    def of_packs(self, packs: Iterable[Pack]) -> float:
        """Return the FLOP of ``packs``."""
        return sum(self._price(count_used(pack)) for pack in packs)

    def of_documents(self, documents: Documents) -> float:
        """Return the FLOP of ``documents``, every target token taken to be learned."""
        return self._price(count_in_documents(documents))

    def _price(self, counts: Mapping[str, float]) -> float:
        return sum(self.prices.get(unit, 0.0) * number for unit, number in counts.items())
