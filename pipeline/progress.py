"""Progress on long work: bars in a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..graph.render.printable import printable_lines

_LINE_EVERY_S = 15.0


class Bar:
    """One piece of work on the way."""

    def __init__(self, shown: Shown, name: str, total: int | None, done: int, unit: str) -> None:
        self._shown = shown
        self._name = name
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._done = self._first = done
        self._rejects = 0
        self._note = ""
        self._start = self._said = time.monotonic()
        self._id = shown.add(name, total, done)
        self._lock = threading.Lock()

    def advance(self, number: int = 1, rejects: int = 0) -> None:
        """Count ``number`` more units, ``rejects`` of them bad."""
        with self._lock:
            self._done += number
            self._rejects += rejects
            self._tell()

    def note(self, text: str) -> None:
        """Show ``text`` beside the bar."""
        with self._lock:
            self._note = text
            self._tell()

    def line(self) -> str:
        """Return where it stands: units, rate, time left and rejects."""
        rate = self._rate
        parts = [f"{self._name}: {self._done:,}{self._unit}", f"{rate:,.1f}{self._unit}/s"]
        if self._total is not None:
            parts[0] = f"{self._name}: {self._done:,} of {self._total:,}{self._unit}"
            left_s = max(0, self._total - self._done) / max(rate, 1e-9)
            parts.append(f"{left_s:,.0f} s left")
        return ", ".join([*parts, *self._remarks])

    @property
    def _rate(self) -> float:
        return (self._done - self._first) / max(time.monotonic() - self._start, 1e-9)

    @property
    def _remarks(self) -> list[str]:
        rejected = [f"{self._rejects:,} rejected"] if self._rejects else []
        return [*rejected, self._note] if self._note else rejected

    def _tell(self) -> None:
        now = time.monotonic()
        if self._id is not None:
            remarks = [f"{self._rate:,.1f}{self._unit}/s", *self._remarks]
            self._shown.update(self._id, self._done, ", ".join(remarks))
        elif now - self._said >= _LINE_EVERY_S:
            self._said = now
            self._shown.say(self.line())


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
        yield Bar(self, name, total, done, unit)

    def add(self, name: str, total: int | None, done: int) -> TaskID | None:
        """Add a bar, where there are bars."""
        if self._progress is None:
            return None
        return self._progress.add_task(escape(name), total=total, completed=done, note="")

    def update(self, bar: TaskID, done: int, note: str) -> None:
        """Move a bar."""
        if self._progress is not None:
            self._progress.update(bar, completed=done, note=escape(note))


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
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Shown(console, progress, is_quiet=False)
