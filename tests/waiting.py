"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(happens: Callable[[], object], what: str, within_s: float = 120.0) -> None:
    """Ask again and again until ``happens()`` is true.

    Args:
        happens: Whether it has happened.
        what: What to say if it never does.
        within_s: Seconds after which it never does: far more than a busy machine needs.
    """
    end = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < end, what
        time.sleep(0.01)
