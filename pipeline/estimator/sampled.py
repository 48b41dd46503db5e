"""The first packs of a stream: what is in packs on average, and what it takes to fill them here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ...storage.loader import to_torch
from ...storage.pack import Pack
from ..loader.stream import Stream
from ..model.pack_units import Count, count_units

NUM_PACKS: Final = 16
"""Packs that are looked at, at least one step of them."""
PATIENCE_S: Final = 5.0
"""Seconds after which no more are waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What some packs were like.

    Attributes:
        packs: They, all of one shape.
        counts: Units of a pack, on average.
        documents: Documents of a pack, on average.
        room: Positions of the streams of a pack, tensors of its lanes.
        fill: Used share of each of them.
        seen: Samples of each task in the whole run, about.
        rows: Training rows of each task.
        bytes: Bytes of a pack, as a device is sent it.
        seconds: Seconds that a pack took the loader's thread on this machine.
    """

    packs: Sequence[Pack]
    counts: Mapping[str, Count]
    documents: float
    room: Mapping[str, int]
    fill: Mapping[str, float]
    seen: Mapping[str, float]
    rows: Mapping[str, int]
    bytes: int
    seconds: float

    @property
    def tokens(self) -> float:
        """Positions of both streams that hold a token, on average."""
        return self.counts["source"].used + self.counts["target"].used


def sample_packs(stream: Stream) -> Sampled:
    """Fill the first packs of ``stream``.

    Raises:
        LoaderError: There is nothing to fill them with.
    """
    packs: list[Pack] = []
    with stream.loader() as loader:
        effort, until = loader.effort, time.monotonic() + PATIENCE_S
        before = (0, 0.0)
        for step in loader:
            # The first step waits for the first window to be planned, which thousands of documents share.
            before = before if packs else (effort.packs, effort.seconds)
            packs += step
            if len(packs) >= NUM_PACKS or time.monotonic() > until:
                break
        made, took = effort.packs - before[0], effort.seconds - before[1]
        seconds = took / made if made else effort.seconds / max(1, effort.packs)
        report = loader.report
    config, capacity = stream.config, stream.capacity
    each = [count_units(pack) for pack in packs]
    return Sampled(
        packs=packs,
        counts={name: _mean([counts[name] for counts in each]) for name in each[0]},
        documents=sum(len(pack.rows) for pack in packs) / len(packs),
        room={"source": capacity.source, "target": capacity.target, **capacity.tensors},
        fill=report.fill,
        seen=report.expect_samples(stream.blend, range(config.steps), config.packs_per_step),
        rows={task.name: task.num_rows for task in report.tasks},
        bytes=sum(tensor.nbytes for tensor in to_torch(packs[0]).values()),
        seconds=seconds,
    )


def _mean(counts: list[Count]) -> Count:
    return Count(*(sum(numbers) / len(counts) for numbers in zip(*counts, strict=True)))
