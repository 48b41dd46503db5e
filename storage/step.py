"""The documents of some packs as arrays over all of them, while the packs are being filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from ..graph.errors import LoaderError
from .capacity import Capacity
from .pack import Int32s
from .template import Template
from .tile import Ints, restart_sums
from .window import PackPlan


class Step:
    """The documents of some packs, as arrays over all of them; ``_at`` counts over the packs."""

    def __init__(self, plans: Sequence[PackPlan], capacity: Capacity) -> None:
        self.num_packs = len(plans)
        self.packs = np.repeat(np.arange(len(plans)), [len(plan) for plan in plans])
        self.tasks = np.concatenate([plan.tasks for plan in plans])
        self.rows = np.concatenate([plan.rows for plan in plans])
        self.passes = np.concatenate([plan.passes for plan in plans])
        self.source_lengths = np.concatenate([plan.source_lengths for plan in plans])
        self.target_lengths = np.concatenate([plan.target_lengths for plan in plans])
        source_starts = np.concatenate([plan.source_starts for plan in plans])
        target_starts = np.concatenate([plan.target_starts for plan in plans])
        self.source_at = self.packs * capacity.source + source_starts
        self.target_at = self.packs * capacity.target + target_starts
        self.left_lengths = np.zeros_like(self.source_lengths)
        self.source_ranges = to_ranges(source_starts, self.source_lengths)
        self.target_ranges = to_ranges(target_starts, self.target_lengths)
        tensors = np.concatenate([plan.tensors for plan in plans], axis=1)
        self.slots = {
            lane: self.packs * number + restart_sums(numbers, self.packs)
            for (lane, number), numbers in zip(capacity.tensors.items(), tensors, strict=True)
        }

    def __len__(self) -> int:
        return len(self.rows)

    def shorten(
        self, side: Literal["source", "target"], which: Ints, lengths: Ints, template: Template
    ) -> None:
        """Let documents ``which`` of ``template`` end after ``lengths`` ids, where more may have been planned.

        What was planned beyond is padding, which no document sees.

        Raises:
            LoaderError: A document is longer than it was planned (T0605).
        """
        is_source = side == "source"
        planned = self.source_lengths if is_source else self.target_lengths
        lengths = lengths if is_source else (lengths - 1).clip(min=0)
        if (too_long := lengths > planned[which]).any():
            first = int(too_long.argmax())
            message = (
                f'task "{template.task}": row {self.rows[which[first]]} takes {lengths[first]} {side} '
                f"positions, and {planned[which[first]]} were planned"
            )
            help_ = "an op that runs in every epoch gives more values than its plan_lengths says"
            raise LoaderError.of("T0605", message, help_)
        planned[which] = lengths
        ranges = self.source_ranges if is_source else self.target_ranges
        ranges[which, 1] = ranges[which, 0] + lengths

    def by_template(self, templates: Sequence[Template]) -> Iterator[tuple[Template, Ints]]:
        """Yield each template that occurs and the numbers of its documents."""
        for number in np.unique(self.tasks).tolist():
            yield templates[number], np.flatnonzero(self.tasks == number)

    def count(self, size: int) -> Int32s:
        """Return the position in its pack of each position of a stream."""
        return np.tile(np.arange(size, dtype=np.int32), self.num_packs)


def to_ranges(starts: Ints, lengths: Ints) -> Int32s:
    """Return where what begins at ``starts`` ends, shape ``(N, 2)``."""
    return np.stack([starts, starts + lengths], axis=1).astype(np.int32)


__all__ = ["Step", "to_ranges"]
