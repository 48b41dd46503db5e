"""The most memory that a call holds at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def count_peak(call: Callable[[], object]) -> int:
    """Return the most bytes that ``call`` takes at once beside what there was, as torch's profiler sees it.

    It is exact, and slow: nothing should be timed while it counts.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        call()
    kineto: Any = told.profiler
    events = [each for each in kineto.kineto_results.events() if each.name() == "[memory]"]
    ordered = sorted(events, key=lambda each: each.start_ns())
    return max(itertools.accumulate(each.nbytes() for each in ordered))
