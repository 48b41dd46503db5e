"""For how long a process has done nothing, with all that it has started: as far as Linux tells.

Work that nobody knows the length of, such as compiling, can be told from a hang by it: work takes time of a
processor, or waits for a disk.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TASKS: Final = "/proc/{}/task"
_WINDOW_S: Final = 5.0
_MOST_S: Final = 0.2
"""Seconds of processors in a window that go into what every process does, such as looking after others."""


@dataclass(slots=True)
class Resting:
    """How long this process has done nothing.

    It is to be asked by one thread alone, whose own work does not count, and more often than once in a window.
    """

    _since: float = field(default_factory=time.monotonic)
    _window: float = field(default_factory=time.monotonic)
    _taken_s: float = 0.0

    def look(self) -> float:
        """Return for how many seconds it has done nothing; 0 where that cannot be known."""
        now, taken_s = time.monotonic(), _measure(os.getpid())
        own_s = time.thread_time()
        # It is much less than before where processes have left this one.
        if taken_s is None or abs(taken_s - own_s - self._taken_s) > _MOST_S:
            self._since = self._window = now
        if self._window == now or now - self._window > _WINDOW_S:
            self._window, self._taken_s = now, (taken_s or 0.0) - own_s
        return now - self._since


def _measure(pid: int) -> float | None:
    """Return the seconds of processors that a process and all that it started have taken.

    It is None if one of them waits for a disk, or where that is not told.
    """
    try:
        states, children = _read_tasks(pid)
        taken_s = _read_taken(pid)
    except OSError:
        return None
    if "D" in states:
        return None
    for child in children:
        of_child = _measure(child)
        # One that has ended meanwhile is counted by who started it.
        if of_child is None and Path(_TASKS.format(child)).exists():
            return None
        taken_s += of_child or 0.0
    return taken_s


def _read_tasks(pid: int) -> tuple[set[str], list[int]]:
    """Return the states of the threads of a process, and the processes that these have started."""
    states, children = set[str](), list[int]()
    for task in Path(_TASKS.format(pid)).iterdir():
        states.add(_read_stat(task)[0])
        children += [int(child) for child in (task / "children").read_text().split()]
    return states, children


def _read_taken(pid: int) -> float:
    # Of itself in user and system mode, and of those that it has seen the end of.
    return sum(int(ticks) for ticks in _read_stat(Path("/proc") / str(pid))[11:15]) / os.sysconf(
        "SC_CLK_TCK"
    )


def _read_stat(folder: Path) -> list[str]:
    """Return what the system tells of a thread or process, beginning with its state."""
    return (folder / "stat").read_text().rpartition(")")[2].split()
