"""Arguments that several verbs take, and the project behind them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..project import Project

ProjectPath = Annotated[Path, typer.Argument(help="The project file.", metavar="PROJECT")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def load(path: Path) -> Project:
    """Return the project of a file; what is wrong in it is told before anything that computes is imported."""
    from ..project import load_project  # noqa: PLC0415 - only verbs need it

    return load_project(path)
