"""Arguments that several verbs take, and the project behind them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...storage.files import scheme_of

if TYPE_CHECKING:
    from ...storage.store import Store
    from ..config.project import Project

ProjectPath = Annotated[Path, typer.Argument(help="The project file.", metavar="PROJECT")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def open_store(location: str) -> Store:
    """Return a store, or the store of a project file."""
    if not is_store(location):
        return load(Path(location)).open_store()
    from ...storage.store import Store  # noqa: PLC0415 - it imports pyarrow

    return Store.open(location)


def is_store(location: str) -> bool:
    """Return whether ``location`` is where a store may be, rather than a file."""
    return bool(scheme_of(location)) or Path(location).is_dir()


def load(path: Path) -> Project:
    """Return the project of a file; what is wrong in it is told before anything that computes is imported."""
    from ..config.project import load_project  # noqa: PLC0415 - only verbs need it

    return load_project(path)
