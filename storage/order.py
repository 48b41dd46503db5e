"""The order in which a task's rows are seen: pass after pass, each of them permuted.

A *pass* is one time through all rows of a task. A *turn* is the number of a sample among all of its
task, from 0; pass and cursor are its quotient and remainder by the number of rows. Everything here
is a pure function of the seed and the turn, so that resuming needs turns and nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from .tile import Ints

# A window that is planned twice may step back over the end of a pass, and rows left over from before
# a change of the mixture may be of the pass before that.
_KEPT_PASSES = 3


@dataclass(slots=True)
class TaskOrder:
    """The endless sequence of one task's rows, pass after pass.

    Attributes:
        seed: Seed of the run.
        task: Name of the task.
        num_rows: Rows of one pass, at least 1.
    """

    seed: int
    task: str
    num_rows: int
    _passes: dict[int, npt.NDArray[np.uint32]] = field(
        default_factory=dict[int, npt.NDArray[np.uint32]], repr=False
    )

    def find(self, turns: Ints) -> tuple[Ints, Ints]:
        """Return row numbers (positions in the task's row list) and passes of ``turns``, shape ``(N,)``."""
        passes, cursors = np.divmod(turns, self.num_rows)
        found = np.empty(len(turns), np.int64)
        for number in np.unique(passes).tolist():
            which = passes == number
            found[which] = self._permutation(number)[cursors[which]]
        return found, passes

    def _permutation(self, pass_number: int) -> npt.NDArray[np.uint32]:
        if pass_number not in self._passes:
            if len(self._passes) == _KEPT_PASSES:
                del self._passes[min(self._passes)]
            self._passes[pass_number] = permute(
                self.num_rows, self.seed, "pass", self.task, pass_number
            )
        return self._passes[pass_number]


def permute(size: int, seed: int, *stream: str | int) -> npt.NDArray[np.uint32]:
    """Return the permutation of ``size`` items that belongs to ``seed`` and ``stream``.

    It sorts the raw output of Philox, which NumPy promises never to change; its own shuffling
    methods are free to change between versions, and a run must resume under a newer NumPy.
    """
    text = json.dumps([seed, *stream], ensure_ascii=True)
    key = int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little")
    noise = np.random.Philox(key=key).random_raw(size)
    return np.argsort(noise, kind="stable").astype(np.uint32)


__all__ = ["TaskOrder", "permute"]
