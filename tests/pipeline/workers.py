"""Finding the worker processes of a build."""

from __future__ import annotations

import os
from pathlib import Path


def worker_pids(parent: int | None = None) -> list[int]:
    """Return the worker processes that ``parent`` has started; by default those of this process."""
    parent = parent or os.getpid()
    return [pid for pid in _children(parent) if b"taskloom.pipeline.host.worker" in _command(pid)]


def is_running(pid: int) -> bool:
    """Return whether there is a process ``pid`` that still runs."""
    return _state(pid) not in ("", "Z")


def _children(parent: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # the thread has ended
            continue
    return [pid for pid in found if is_running(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
