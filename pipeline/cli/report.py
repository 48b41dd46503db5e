"""The verb that reports: one page on a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import say, write_text
from .argument import load


def report(
    run: Annotated[
        Path, typer.Argument(help="A project file, or the directory of a run.", metavar="RUN")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Instead of report.html in the run.", metavar="FILE"),
    ] = None,
) -> None:
    """Write a page on a training run: curves, mixture, slow steps and samples, in one file."""
    directory = load(run).out if run.is_file() else run
    from ..viewer.run_page import render_run  # noqa: PLC0415 - only this verb needs it

    path = directory / "report.html" if out is None else out
    write_text(path, render_run(directory, path))
    say(f"wrote {path}")
