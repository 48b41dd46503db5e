"""The log of a run: one JSON object a line, in order of steps, each step at most once.

A listener writes it, the first of all that hear of the run: what others are told of is there already.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
from io import RawIOBase
from itertools import takewhile
from pathlib import Path
from typing import Any

from ...graph.errors import TrainingError
from ...storage.files import make_directory, read_json, reporting, write_json
from .listener.listening import Listener

NAME = "log.jsonl"

HEADER = "header.json"
"""File of what a run learns from and with, as it was said when it last began or went on."""

NOT_FINITE = "not-finite.json"
"""File of a run that a loss or gradient ended which is no finite number: its documents, by name."""

DIVERGES = "diverges.json"
"""File of a run whose loss has left where it was: the documents since then."""

OUT_OF_MEMORY = "out-of-memory.json"
"""File of a run that ended for want of memory: the documents of the step."""


class RunLog(Listener):
    """Writes the log of a run, and its header; the run cannot be gone on with without them."""

    is_needed = True

    def __init__(self) -> None:
        self._file: RawIOBase | None = None
        self._path = Path(NAME)

    def began(self, run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Open the log, and keep what is said of the run.

        Lines about later steps are dropped: those steps were lost, and are about to be taken again. Until the
        run ends no other process can open it.

        Raises:
            StoreError: The log or the header cannot be written.
            TrainingError: Another process has it open (T0785).
        """
        self._path = run / NAME
        make_directory(run)
        with reporting(self._path):
            # Without a buffer: what could not be written is not tried again when it is closed.
            self._file = self._path.open("ab", buffering=0)
        _refuse_second(self._file, run)
        with reporting(self._path):
            before = self._path.read_bytes().splitlines(keepends=True)
            kept = takewhile(lambda line: _is_until(line, facts["step"]), before)
            # It stays the same file, which is locked.
            self._file.truncate(sum(map(len, kept)))
        # What was written where the run ended before is no news.
        for name in (NOT_FINITE, OUT_OF_MEMORY):
            with reporting(run / name):
                (run / name).unlink(missing_ok=True)
        write_json(run / HEADER, {"header": [*header], **facts})

    def logged(self, line: Mapping[str, Any]) -> None:
        """Add ``line``, at once for others to read.

        Raises:
            StoreError: The disk is full, or the log cannot be written.
        """
        assert self._file is not None, "the run has begun"
        rest = memoryview(f"{json.dumps(line, allow_nan=False)}\n".encode())
        with reporting(self._path, len(rest)):
            while rest:
                # A disk that fills up takes a part first, and says so the next time.
                rest = rest[self._file.write(rest) or 0 :]

    def evaluated(self, line: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """Add ``line``, likewise; samples have files of their own."""
        del samples
        self.logged(line)

    def ended(self, outcome: str) -> None:
        """Close the log, for others to open."""
        del outcome
        if self._file is not None:
            self._file.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of the log of the run in directory ``run``; one that was cut off counts for nothing."""
    lines = (run / NAME).read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def read_told(run: Path, name: str) -> dict[str, Any]:
    """Return what file ``name`` of the run in directory ``run`` says; nothing where it is not there."""
    return read_json(run / name) if (run / name).exists() else {}


def read_header(run: Path) -> dict[str, Any]:
    """Return what was kept of the run in directory ``run`` when it began; nothing of one that kept nothing."""
    return read_told(run, HEADER)


def find_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of the log of the run in directory ``run``.

    Raises:
        TrainingError: There is none (T0784).
    """
    if not (run / NAME).exists():
        help_ = "give the directory that training wrote, which a project file names as `out`"
        raise TrainingError.of("T0784", f"{run} holds no {NAME}", help_)
    return read_log(run)


def _refuse_second(file: RawIOBase, run: Path) -> None:
    """Lock a log until it is closed, or its process is gone; file systems without locks let everybody in."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = f"another process trains into {run}"
        help_ = "wait until it is done, or end it: the same command then goes on from its last checkpoint"
        raise TrainingError.of("T0785", message, help_) from None
    except OSError:
        return


def _is_until(line: bytes, step: int) -> bool:
    """Return whether ``line`` is whole and about a step up to ``step``."""
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
