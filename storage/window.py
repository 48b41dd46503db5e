"""Windows: the stream of samples, a few thousand at a time, made into full packs.

The stream of a mixture is endless: tasks mixed by weight, each task's rows in the order of its passes.
A *window* is the next stretch of it, planned as a whole (`window_planner`). Its packs are shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt

from .capacity import Capacity, measure_load
from .pack import Placement, Tiling, tile_documents
from .position import Mask, Position, merge_seen, split_seen
from .template import Documents
from .tile import Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlan:
    """The documents of one pack in the order of their positions; arrays of shape ``(D,)``.

    Attributes:
        tasks: Number of each document's template.
        rows: Its global row.
        samples: Its number among the samples of the window.
        passes: The pass of its task in which it is seen, from 0.
        source_starts: Position of its first source id in the pack.
        source_lengths: Its source positions.
        target_starts: Position of its first target id in the pack.
        target_lengths: Its target positions.
        tensors: Its tensors in each lane, in the order of the capacity; shape ``(lanes, D)``.
    """

    tasks: Ints
    rows: Ints
    samples: Ints
    passes: Ints
    source_starts: Ints
    source_lengths: Ints
    target_starts: Ints
    target_lengths: Ints
    tensors: Ints

    @classmethod
    def blank(cls, num_lanes: int) -> Self:
        """Return the plan of a pack without a document."""
        nothing = {field.name: np.zeros(0, np.int64) for field in fields(cls)}
        return cls(**nothing | {"tensors": np.zeros((num_lanes, 0), np.int64)})

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of the stream, planned.

    Attributes:
        number: How many windows precede it.
        before: The position where it begins.
        after: The position where it ends.
        tasks: Number of the task of each of its samples, shape ``(N,)``.
        packs: Its packs, shuffled.
    """

    number: int
    before: Position
    after: Position
    tasks: Ints
    packs: tuple[PackPlan, ...]

    def find_seen(self, num_packs: int) -> tuple[Mask, ...]:
        """Return for each task which of its samples the first ``num_packs`` packs hold."""
        seen = merge_seen([pack.samples for pack in self.packs[:num_packs]], len(self.tasks))
        return split_seen(self.tasks, seen, len(self.before.counts))


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples in the order of the stream, as arrays over N samples."""

    tasks: Ints
    rows: Ints
    passes: Ints
    source: Ints
    target: Ints
    tensors: Ints

    @classmethod
    def of(
        cls,
        documents: Sequence[Documents],
        tasks: Ints,
        drawn: Sequence[tuple[Ints, Ints]],
        lanes: Sequence[str],
    ) -> Samples:
        """Return the samples of ``tasks``, shape ``(N,)``.

        Args:
            documents: Those of each task.
            tasks: Number of each sample's task.
            drawn: For each task, which of its documents come, in order, and in which pass each.
            lanes: Lanes of the pack, in order.
        """
        rows, passes, source, target = (np.empty(len(tasks), np.int64) for _ in range(4))
        tensors = np.zeros((len(lanes), len(tasks)), np.int64)
        for task, (each, (which, their_passes)) in enumerate(zip(documents, drawn, strict=True)):
            where = np.flatnonzero(tasks == task)
            rows[where] = each.rows[which]
            passes[where] = their_passes
            source[where], target[where] = each.lengths_in(which, their_passes)
            for lane, numbers in each.tensors.items():
                tensors[lanes.index(lane), where] = numbers[which]
        return cls(tasks, rows, passes, source, target, tensors)

    def slice(self, start: int, stop: int) -> Samples:
        """Return samples ``start`` to ``stop``."""
        return Samples(
            tasks=self.tasks[start:stop],
            rows=self.rows[start:stop],
            passes=self.passes[start:stop],
            source=self.source[start:stop],
            target=self.target[start:stop],
            tensors=self.tensors[:, start:stop],
        )

    def measure(self, capacity: Capacity) -> npt.NDArray[np.float64]:
        """Return how much of a pack each takes, one row per capacity, shape ``(2 + lanes, N)``."""
        return measure_load(self.source, self.target, self.tensors, capacity)

    def tile(self, num_samples: int, capacity: Capacity) -> Tiling:
        """Give tiles to the first ``num_samples``."""
        source, target = self.source[:num_samples], self.target[:num_samples]
        return tile_documents(source, target, self.tensors[:, :num_samples], capacity)

    def divide(self, placement: Placement) -> tuple[PackPlan, ...]:
        """Return the packs of ``placement``, which is of the first samples."""
        order = placement.order
        arrays = {
            "tasks": self.tasks[order],
            "rows": self.rows[order],
            "samples": order,
            "passes": self.passes[order],
            "source_starts": placement.source_starts[order],
            "source_lengths": self.source[order],
            "target_starts": placement.target_starts[order],
            "target_lengths": self.target[order],
            "tensors": self.tensors[:, order],
        }
        cuts = np.searchsorted(placement.packs[order], np.arange(placement.num_packs + 1)).tolist()
        return tuple(
            PackPlan(**{name: array[..., start:stop] for name, array in arrays.items()})
            for start, stop in pairwise(cuts)
            if start < stop
        )


__all__ = ["PackPlan", "Samples", "Window"]
