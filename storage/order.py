"""The order in which rows are seen: each task's passes permuted, and tasks mixed by weight.

A *pass* is one time through all rows of a task. A *count* is the number of samples drawn from a
task since the run began; pass and cursor are its quotient and remainder by the number of rows.
Everything here is a pure function of the seed and the counts, so that resuming needs the counts and
nothing else.

Why not random tasks: drawing tasks by chance strays from the weights as the square root of the
number of samples. Here no task is ever a whole sample away from its share.

Source: R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980), for the
mixing.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


@dataclass(slots=True)
class TaskOrder:
    """The endless sequence of one task's rows, pass after pass, or of those that one template gets.

    The templates of a task take turns: each row is seen once in a pass, with any of them.

    Attributes:
        seed: Seed of the run.
        task: Name of the task.
        num_rows: Rows of one pass, at least 1.
        number: Number of the template, from 0.
        num_templates: How many the task has.
    """

    seed: int
    task: str
    num_rows: int
    number: int = 0
    num_templates: int = 1
    _passes: dict[int, npt.NDArray[np.uint32]] = field(
        default_factory=dict[int, npt.NDArray[np.uint32]], repr=False
    )

    def take(
        self, start: int, num_samples: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return row numbers (positions in the task's row list) and passes of samples ``start`` and on."""
        turns = np.arange(start, start + num_samples, dtype=np.int64)
        passes, cursors = np.divmod(turns * self.num_templates + self.number, self.num_rows)
        parts = [
            self._permutation(number)[cursors[passes == number]]
            for number in dict.fromkeys(passes.tolist())
        ]
        return np.concatenate([np.empty(0, np.int64), *parts], dtype=np.int64), passes

    def _permutation(self, pass_number: int) -> npt.NDArray[np.uint32]:
        if pass_number not in self._passes:
            # A window that is planned twice may step back over the end of a pass: keep two.
            self._passes = {k: v for k, v in self._passes.items() if k == pass_number - 1}
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


def mix_tasks(
    counts: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], num_samples: int
) -> npt.NDArray[np.int32]:
    """Return the tasks of the next samples: the one that is furthest behind its share, each time.

    Sample ``j`` of a task with share ``s`` is released at ``(j + d) / s`` samples of the whole and
    due at ``(j + 1 - d) / s``, with ``d = 1 / (2 K - 2)`` for ``K`` tasks; the earliest due of the
    released comes next. Then every count is within ``1 - d`` of its share of the total, at every
    sample.

    Args:
        counts: Samples drawn of each task so far, by this function from zero on; shape ``(K,)``.
        weights: Relative shares, positive; shape ``(K,)``.
        num_samples: How many to draw.

    Returns:
        Task numbers, shape ``(num_samples,)``.
    """
    num_tasks = len(counts)
    if num_tasks == 1:
        return np.zeros(num_samples, np.int32)
    slack = 1 / (2 * num_tasks - 2)
    shares = weights / weights.sum()
    total = int(counts.sum())
    # One sample more than can be released, so that rounding never leaves a step without a task.
    last = np.floor((total + num_samples) * shares - slack).astype(np.int64) + 2
    num_jobs = np.maximum(last - counts, 1)
    task = np.repeat(np.arange(num_tasks), num_jobs)
    job = counts[task] + np.arange(len(task)) - np.repeat(np.cumsum(num_jobs) - num_jobs, num_jobs)
    release = np.ceil((job + slack) / shares[task])
    due = (job + 1 - slack) / shares[task]
    order = np.lexsort((task, due))
    task = task[order].astype(np.int32)
    return task[_earliest_due_first(release[order], total, num_samples)]


def _earliest_due_first(
    release: npt.NDArray[np.float64], total: int, num_samples: int
) -> npt.NDArray[np.int64]:
    """Return which job runs at each step; jobs are numbered by due time."""
    arrivals = np.argsort(release, kind="stable")
    jobs, times = arrivals.tolist(), release[arrivals].tolist()
    ready: list[int] = []
    picked: list[int] = []
    arrived = 0
    for now in range(total + 1, total + num_samples + 1):
        while arrived < len(jobs) and (times[arrived] <= now or not ready):
            heapq.heappush(ready, jobs[arrived])
            arrived += 1
        picked.append(heapq.heappop(ready))
    return np.array(picked, np.int64)


__all__ = ["TaskOrder", "mix_tasks", "permute"]
