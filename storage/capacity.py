"""What a pack can hold.

A pack's shape is static: two streams of positions, source and target, and lanes of tensors. Each of
these numbers is a *capacity*, a promise to the compiled program that no plan exceeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..graph.errors import LoaderError
from .template import Documents
from .tile import Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The static shape of a pack, and the longest document that may enter it.

    Attributes:
        source: Positions of the source stream, a multiple of ``tile``.
        target: Positions of the target stream, a multiple of ``tile``; 0 for none.
        tensors: How many tensors each lane holds.
        tile: Attention tile. A document starts at a multiple of it, or does not cross one.
        max_source: Longest document in source positions; ``source`` by default.
        max_target: Longest document in target positions; ``target`` by default.
    """

    source: int
    target: int
    tensors: Mapping[str, int] = field(default_factory=dict[str, int])
    tile: int = 64
    max_source: int | None = None
    max_target: int | None = None

    def __post_init__(self) -> None:
        sizes = {"source": self.source, "target": self.target}
        wrong = [f"{k} must not be negative, got {v}" for k, v in sizes.items() if v < 0]
        if self.tile < 1:
            wrong.append(f"tile must be at least 1, got {self.tile}")
        else:
            wrong += [
                f"{k} must be a multiple of tile, {self.tile}, got {v}"
                for k, v in sizes.items()
                if v % self.tile
            ]
        wrong += [
            f'lane "{lane}" must hold at least 1 tensor, got {number}'
            for lane, number in self.tensors.items()
            if number < 1
        ]
        if wrong:
            raise LoaderError.of("T0606", f"a pack cannot have this capacity: {'; '.join(wrong)}")

    @property
    def longest(self) -> tuple[int, int]:
        """Longest document in source and in target positions."""
        max_source = self.source if self.max_source is None else self.max_source
        max_target = self.target if self.max_target is None else self.max_target
        return min(max_source, self.source), min(max_target, self.target)

    @property
    def limits(self) -> tuple[int, ...]:
        """Tensors that each lane holds, in the order of ``tensors``."""
        return tuple(self.tensors.values())

    def fits(self, documents: Documents) -> npt.NDArray[np.bool_]:
        """Return which of ``documents`` a pack can hold in every pass, shape ``(D,)``."""
        max_source, max_target = self.longest
        fits = (documents.longest_source <= max_source) & (documents.longest_target <= max_target)
        for lane, numbers in documents.tensors.items():
            fits &= numbers <= self.tensors.get(lane, 0)
        return fits


def measure_load(
    source: Ints, target: Ints, tensors: Ints, capacity: Capacity
) -> npt.NDArray[np.float64]:
    """Return how much of a pack documents take, one row per capacity: shape ``(2 + lanes, D)``.

    ``tensors`` holds the tensors of each document, one row per lane in the order of
    ``capacity.tensors``.
    """
    sizes = np.array([capacity.source, capacity.target, *capacity.limits], np.float64)
    return np.vstack([source, target, tensors]) / np.maximum(sizes, 1)[:, None]


__all__ = ["Capacity", "measure_load"]
