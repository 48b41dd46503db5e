"""What the loader computes in every pass, and a mixture all of whose sources are computed so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taskloom.storage.online import OnlineColumn
from taskloom.storage.template import Column, Gathered

from .documents import Ints, Mixture


def count_kept(rows: Ints, passes: Ints, lengths: Ints) -> Ints:
    """Return how many ids stay of each row: another number in every pass."""
    return (rows * 7 + passes * 3) % (lengths + 1)


@dataclass(frozen=True, slots=True)
class Repeat:
    """Gives a row as many times its pass as `count_kept` says; plans that, or what the row is at most."""

    is_exact: bool = True
    promise: int = 0
    doing: str = ""

    def plan_lengths(
        self, lengths: Sequence[Ints], rows: Ints | None, passes: Ints | None
    ) -> Ints | None:
        if rows is None or passes is None or not self.is_exact:
            return lengths[0] - self.promise
        return count_kept(rows, passes, lengths[0])

    def __call__(self, gathered: Sequence[Gathered], rows: Ints, passes: Ints) -> Gathered:
        (ragged,) = gathered
        assert isinstance(ragged, tuple)
        kept = count_kept(rows, passes, np.diff(ragged[1]))
        return np.repeat(passes, kept), np.concatenate([[0], np.cumsum(kept)])


@dataclass(frozen=True, slots=True)
class Brighten:
    """Adds the pass to every number of a tensor."""

    doing: str = ""

    def plan_lengths(self, lengths: Sequence[Ints], rows: Any, passes: Any) -> None:
        del lengths, rows, passes

    def __call__(self, gathered: Sequence[Gathered], rows: Ints, passes: Ints) -> Gathered:
        (pixels,) = gathered
        assert len(rows) == len(passes)
        assert isinstance(pixels, np.ndarray)
        added = passes.astype(np.uint8)
        return pixels + added.reshape(-1, *[1] * (pixels.ndim - 1))


def in_every_pass(mixture: Mixture) -> Mixture:
    """Return ``mixture`` with its texts and pictures computed in every pass."""
    computes = {"text": Repeat(), "image": Brighten(), "picture": Brighten()}
    columns: dict[tuple[str, str], Column] = {
        (source, name): OnlineColumn((column,), computes[name]) if name in computes else column
        for (source, name), column in mixture.columns.items()
    }
    return replace(mixture, columns=columns)
