"""What the command line reads and prints: rows as JSON lines, JSON for programs, text for people."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ..graph.errors import ProjectError, TaskloomWarning
from ..graph.render.printable import printable, printable_lines


def say(text: str, *, is_error: bool = False) -> None:
    """Print lines for people; what users wrote moves no cursor and changes no colour."""
    typer.echo(printable_lines(text), err=is_error)


@contextmanager
def told_warnings() -> Generator[None]:
    """Say taskloom's warnings as errors are said, each once, while the context lasts."""
    told: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if not issubclass(category, TaskloomWarning):
                show(message, category, *place)
            elif (text := str(message)) not in told:
                told.add(text)
                say(text, is_error=True)

        warnings.showwarning = tell
        warnings.simplefilter("always", TaskloomWarning)
        yield


def say_answer(text: str) -> None:
    """Print one line, whatever a model wrote."""
    typer.echo(printable(text))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to a file.

    Raises:
        ProjectError: It cannot be written (T0806).
    """
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ProjectError.of("T0806", f"cannot write {path}: {error.strerror}") from None


def print_json(content: object, *, is_line: bool = False) -> None:
    """Print ``content`` for a program, on one line or indented."""
    typer.echo(json.dumps(content, indent=None if is_line else 1, allow_nan=False))


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines, or of standard input if there is none.

    Raises:
        ProjectError: The file cannot be read (T0806), or some line is no JSON object (T0807).
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except json.JSONDecodeError as error:
            message = f"line {number} of the rows is not JSON: {error.msg}"
            raise ProjectError.of("T0807", message, f"at column {error.colno}") from None
        if not isinstance(row, dict):
            help_ = 'give one object a line, such as {"text": "…"}'
            raise ProjectError.of("T0807", f"line {number} of the rows is not a row", help_)
        rows.append(row)
    return rows


def _read(path: Path | None) -> str:
    try:
        content = sys.stdin.buffer.read() if path is None else path.read_bytes()
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ProjectError.of("T0806", f"{path or 'standard input'} is not UTF-8") from None
    except OSError as error:
        raise ProjectError.of("T0806", f"cannot read {path}: {error.strerror}") from None
