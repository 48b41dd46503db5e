"""The verb that compares: what changed from one project, instruction, view or graph to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ...graph.errors import ProjectError
from .argument import load
from .look import StorePath, check_ending, describe, write_view

if TYPE_CHECKING:
    from ...graph.view_form import View
    from ..config.project import Project

_PROJECTS: Final = (".yaml", ".yml")

Old = Annotated[
    str,
    typer.Argument(
        help="A project file, an instruction, a graph.json, or the text of a graph.", metavar="OLD"
    ),
]
New = Annotated[str, typer.Argument(help="The same, of what it became.", metavar="NEW")]


def diff(
    old: Old,
    new: New,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="A .html, .svg, .dot, .mmd, .json or .txt.", metavar="FILE"
        ),
    ] = None,
    store: StorePath = None,
) -> None:
    """Show what changed from one graph to another, and what a build would compute anew."""
    if out is not None:
        check_ending(out)
    views = [_read(side, store) for side in (old, new)]
    from ...graph.diff import compare  # noqa: PLC0415
    from ...graph.explain import explain  # noqa: PLC0415
    from ...storage.store import Store  # noqa: PLC0415
    from ..viewer.compared import read_holdings  # noqa: PLC0415

    # A project that was never built has no store.
    projects = filter(None, map(_project_of, (new, old)))
    opened = Store.open(store) if store else next((p.find_store() for p in projects), None)
    holdings = None if opened is None else read_holdings(views[0], opened)
    view = compare(*views, holdings=holdings)
    if out is None:
        typer.echo(explain(view), nl=False)
    else:
        write_view(view, out)


def _read(side: str, store: str | None) -> View:
    """Return the view of one side; a file is known by its ending, or by how it begins."""
    if "->" in side or Path(side).suffix in _PROJECTS:
        return describe(side, "train", store)
    from ...graph.reading import read_view  # noqa: PLC0415
    from ..viewer.compared import is_graph, view_graph  # noqa: PLC0415

    try:
        text = Path(side).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        help_ = "give a project file, an instruction, a graph.json, or the text of a graph"
        raise ProjectError.of("T0806", f"cannot read {side}: {reason}", help_) from None
    if is_graph(text):
        return view_graph(text, Path(side).name)
    return read_view(text, name=Path(side).name)


def _project_of(side: str) -> Project | None:
    is_project = "->" not in side and Path(side).suffix in _PROJECTS
    return load(Path(side)) if is_project else None
