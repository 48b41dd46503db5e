"""Progress on long work: bars in a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from ..graph.render.printable import printable_lines
from ..storage.files import count_bytes

_LINE_EVERY_S = 15.0
_WORTH_A_LINE_S = 1.0
"""Seconds that a part must have taken for its end to be told of."""

_LONGEST_S: Final = 1e7
"""Most seconds that are told to be left."""

_MAX_PARTS: Final = 8
"""Parts that are shown at a time."""


class Bar:
    """One piece of work on the way."""

    def __init__(
        self,
        shown: Shown,
        name: str,
        total: int | None,
        done: int,
        unit: str,
        more_lines: Callable[[], Sequence[str]] | None = None,
        *,
        is_shown: bool = True,
    ) -> None:
        self._shown = shown
        self._more_lines = more_lines
        self._name = name
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._done = self._first = done
        self._rejects = self._bytes = 0
        self._note = ""
        self._pace: float | None = None
        self._start = self._said = time.monotonic()
        self._id = shown.add(name, total, done) if is_shown else None
        self._lock = threading.Lock()

    @property
    def is_done(self) -> bool:
        """Whether all units are behind it."""
        return self._done == self._total

    @property
    def seconds(self) -> float:
        """How long it has been there."""
        return time.monotonic() - self._start

    def advance(self, number: int = 1, rejects: int = 0) -> None:
        """Count ``number`` more units, ``rejects`` of them bad."""
        with self._lock:
            self._done += number
            self._rejects += rejects
            self._tell()

    def wrote(self, number: int) -> None:
        """Count ``number`` more bytes that were written."""
        with self._lock:
            self._bytes += number
            self._tell()

    def note(self, text: str) -> None:
        """Show ``text`` beside the bar."""
        with self._lock:
            self._note = text
            self._tell()

    def set_pace(self, pace: float) -> None:
        """Go by ``pace``, in units a second, rather than by all of the time so far."""
        with self._lock:
            self._pace = pace
            self._tell()

    def line(self) -> str:
        """Return where it stands: units, rate, time left, bytes and rejects."""
        rate = self._rate
        parts = [f"{self._name}: {self._done:,}{self._unit}", f"{rate:,.1f}{self._unit}/s"]
        if self.is_done:
            parts.append(f"done in {self.seconds:,.1f} s")
        elif self._total is not None:
            parts[0] = f"{self._name}: {self._done:,} of {self._total:,}{self._unit}"
            parts.append(f"{self._left_s:,.0f} s left")
        return ", ".join([*parts, *self._remarks])

    def close(self) -> None:
        """Take the bar away."""
        if self._id is not None:
            self._shown.remove(self._id)

    @property
    def _left_s(self) -> float:
        left = 0 if self._total is None else max(0, self._total - self._done)
        return left / max(self._rate, 1e-9)

    @property
    def _rate(self) -> float:
        if self._pace is not None:
            return self._pace
        return (self._done - self._first) / max(time.monotonic() - self._start, 1e-9)

    @property
    def _remarks(self) -> list[str]:
        written = [count_bytes(self._bytes)] if self._bytes else []
        rejected = [f"{self._rejects:,} rejected"] if self._rejects else []
        return [*written, *rejected, *([self._note] if self._note else [])]

    def _tell(self) -> None:
        now = time.monotonic()
        if self._id is not None:
            remarks = [f"{self._rate:,.1f}{self._unit}/s", *self._remarks]
            is_known = self._total is not None and self._done > self._first
            left = str(timedelta(seconds=round(min(self._left_s, _LONGEST_S)))) if is_known else ""
            self._shown.update(self._id, self._done, ", ".join(remarks), left)
        elif self._more_lines is not None and now - self._said >= _LINE_EVERY_S:
            self._said = now
            self._shown.say("\n".join([self.line(), *self._more_lines()]))


class Bars:
    """Work in several parts: all of it, and each part while somebody is at it."""

    def __init__(self, shown: Shown, name: str, totals: Mapping[str, int], unit: str) -> None:
        self._shown = shown
        self._totals = totals
        self._unit = unit
        self._lock = threading.Lock()
        self._parts: dict[str, Bar] = {}
        self._ended: Counter[str] = Counter()
        self._whole = Bar(shown, name, sum(totals.values()), 0, unit, self._lines)

    def count(self, name: str, number: int, rejects: int) -> None:
        """Count ``number`` more units of the part ``name``, ``rejects`` of them bad."""
        self._whole.advance(number, rejects)
        self._part(name).advance(number, rejects)

    def end(self, name: str, number: int, bytes_: int) -> None:
        """Take note that ``number`` units of the part ``name`` have come to their end, and wrote ``bytes_``."""
        self._whole.wrote(bytes_)
        part = self._part(name)
        part.wrote(bytes_)
        self._ended[name] += number
        if self._ended[name] >= self._totals[name]:
            part.close()
            with self._lock:
                del self._parts[name]
            if len(self._totals) > 1 and part.seconds >= _WORTH_A_LINE_S:
                self._shown.say(part.line())

    def close(self) -> None:
        """Take away the bars of parts."""
        with self._lock:
            for part in self._parts.values():
                part.close()

    def _part(self, name: str) -> Bar:
        with self._lock:
            if name not in self._parts:
                is_shown = len(self._totals) > 1 and len(self._parts) < _MAX_PARTS
                self._parts[name] = Bar(
                    self._shown, name, self._totals[name], 0, self._unit, is_shown=is_shown
                )
            return self._parts[name]

    def _lines(self) -> list[str]:
        """Return where the parts stand that somebody is at."""
        with self._lock:
            parts = list(self._parts.values()) if len(self._totals) > 1 else []
        return [f"  {part.line()}" for part in parts[:_MAX_PARTS]]


class Shown:
    """Where progress is shown."""

    def __init__(self, console: Console, progress: Progress | None, *, is_quiet: bool) -> None:
        self._console = console
        self._progress = progress
        self._is_quiet = is_quiet

    def say(self, text: str) -> None:
        """Show lines as they are: nothing in them is markup, and none is broken."""
        if not self._is_quiet:
            self._console.print(Text(printable_lines(text)), soft_wrap=True)

    @contextmanager
    def task(
        self, name: str, *, total: int | None = None, done: int = 0, unit: str = ""
    ) -> Generator[Bar]:
        """Show a piece of work of ``total`` units, ``done`` of which are behind it."""
        yield Bar(self, name, total, done, unit, list)

    @contextmanager
    def tasks(self, name: str, totals: Mapping[str, int], *, unit: str) -> Generator[Bars]:
        """Show work in several parts, of so many units each."""
        bars = Bars(self, name, totals, unit)
        try:
            yield bars
        finally:
            bars.close()

    def add(self, name: str, total: int | None, done: int) -> TaskID | None:
        """Add a bar, where there are bars."""
        if self._progress is None:
            return None
        return self._progress.add_task(escape(name), total=total, completed=done, note="", left="")

    def remove(self, bar: TaskID) -> None:
        """Take a bar away."""
        if self._progress is not None:
            self._progress.remove_task(bar)

    def update(self, bar: TaskID, done: int, note: str, left: str) -> None:
        """Move a bar."""
        if self._progress is not None:
            self._progress.update(bar, completed=done, note=escape(note), left=left)


@contextmanager
def open_progress(*, shown: bool = True) -> Generator[Shown]:
    """Show progress on standard error: bars if it is a terminal, lines if not, nothing if not wanted."""
    console = Console(file=sys.stderr)
    if not (shown and console.is_terminal):
        yield Shown(console, None, is_quiet=not shown)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="progress.remaining"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Shown(console, progress, is_quiet=False)
