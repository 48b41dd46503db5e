"""The verbs that show: explain and graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ...graph.errors import ProjectError
from ..terminal import print_json, say
from .argument import Json, load

Described = Annotated[
    str, typer.Argument(help="A project file, or an instruction.", metavar="PROJECT")
]
Mode = Annotated[str, typer.Option(help="train, or infer.", metavar="MODE")]


def explain(project: Described, *, mode: Mode = "train", as_json: Json = False) -> None:
    """Show what is computed, where, and what is stored."""
    view = _view(project, mode)
    from ...graph.explain import explain as write  # noqa: PLC0415

    if as_json:
        print_json(view)
    else:
        typer.echo(write(view), nl=False)


def graph(
    project: Described,
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="graph.html or graph.json.", metavar="FILE")
    ],
    mode: Mode = "train",
) -> None:
    """Draw the graph as a page, or write it as JSON."""
    if out.suffix not in (".html", ".json"):
        raise ProjectError.of("T0806", f'cannot write "{out.name}"', "name it .html or .json")
    view = _view(project, mode)
    from ...graph.render.page import render_page  # noqa: PLC0415

    text = render_page(view) if out.suffix == ".html" else json.dumps(view, indent=1)
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise ProjectError.of("T0806", f"cannot write {out}: {error.strerror}") from None
    say(f"wrote {out}")


def _view(project: str, mode: str) -> Any:
    """Return the view of a project file or, for a text with an arrow, of that instruction."""
    from ...storage.store import Store  # noqa: PLC0415
    from ..task import Mixture, Task  # noqa: PLC0415

    if mode not in ("train", "infer"):
        raise ProjectError.of("T0806", f'--mode is train or infer, got "{mode}"')
    loaded = None if "->" in project else load(Path(project))
    mixture = Mixture([Task("task", project)]) if loaded is None else loaded.mixture
    store = model = None
    if loaded is not None:
        is_built = (loaded.store / "store.json").exists()
        store, model = Store.open(loaded.store) if is_built else None, loaded.model
    for task in mixture.tasks:
        task.parse()  # what is wrong here is told before torch is imported
    from ..inspection import plan_for_view, view_plan  # noqa: PLC0415

    planned = plan_for_view(mixture, store, mode, model)
    title = project if loaded is None else loaded.path.stem
    return view_plan(planned, title=title, store=store, project=project)
