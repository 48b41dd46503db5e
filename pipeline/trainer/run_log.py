"""The log of a run: one JSON object a line, in order of steps, each step at most once."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from os import devnull
from pathlib import Path
from typing import Any

from ...graph.errors import TrainingError
from ...storage.files import read_json, write_atomic, write_json

NAME = "log.jsonl"

HEADER = "header.json"
"""File of what a run learns from and with, as it was said when it last began or went on."""


class RunLog:
    """A log that is open for writing."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, line: Mapping[str, Any]) -> None:
        """Add ``line``, at once for others to read."""
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()


@contextmanager
def open_log(run: Path, step: int, *, is_kept: bool = True) -> Generator[RunLog]:
    """Open the log of the run in directory ``run``, which goes on after ``step``; to nowhere unless it is kept.

    Lines about later steps are dropped: those steps were lost, and are about to be taken again.

    Raises:
        StoreError: The log cannot be written.
    """
    if not is_kept:
        with Path(devnull).open("a", encoding="utf-8") as file:
            yield RunLog(file)
        return
    path = run / NAME
    before = path.read_bytes() if path.exists() else b""
    kept = b"".join(line for line in before.splitlines(keepends=True) if _is_until(line, step))
    if kept != before or not path.exists():
        write_atomic(path, kept)
    with path.open("a", encoding="utf-8") as file:
        yield RunLog(file)


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of the log of the run in directory ``run``."""
    return [json.loads(line) for line in (run / NAME).read_text("utf-8").splitlines()]


def write_header(run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Keep what was said of the run in directory ``run`` when it began."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / HEADER, {"header": [*header], **facts})


def read_header(run: Path) -> dict[str, Any]:
    """Return what was kept of the run in directory ``run`` when it began; nothing of one that kept nothing."""
    return read_json(run / HEADER) if (run / HEADER).exists() else {}


def find_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of the log of the run in directory ``run``.

    Raises:
        TrainingError: There is none (T0784).
    """
    if not (run / NAME).exists():
        help_ = "give the directory that training wrote, which a project file names as `out`"
        raise TrainingError.of("T0784", f"{run} holds no {NAME}", help_)
    return read_log(run)


def _is_until(line: bytes, step: int) -> bool:
    """Return whether ``line`` is whole and about a step up to ``step``."""
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
