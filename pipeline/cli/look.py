"""The verbs that show: explain and graph."""

from __future__ import annotations

from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

from ...graph.errors import ProjectError
from ..terminal import print_json, say, write_text
from .argument import Json, load

Described = Annotated[
    str, typer.Argument(help="A project file, or an instruction.", metavar="PROJECT")
]
Mode = Annotated[str, typer.Option(help="train, or infer.", metavar="MODE")]
StorePath = Annotated[
    str | None, typer.Option("--store", help="A store, instead of the project's.", metavar="STORE")
]
Analyze = Annotated[
    bool,
    typer.Option(
        "--analyze", help="Add rows, bytes and seconds, as builds and training took them."
    ),
]


def explain(
    project: Described,
    *,
    mode: Mode = "train",
    analyze: Analyze = False,
    passes: Annotated[
        bool, typer.Option("--passes", help="Show what each pass over the graph changed, instead.")
    ] = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Show what is computed, where, and what is stored."""
    view = describe(project, mode, store, is_analyzed=analyze, of_passes=passes)
    from ...graph.explain import explain as write  # noqa: PLC0415
    from ...graph.render.history import write_history  # noqa: PLC0415

    if as_json:
        print_json(view)
    elif passes:
        typer.echo(write_history(view, width=get_terminal_size().columns), nl=False)
    else:
        typer.echo(write(view), nl=False)


def graph(
    project: Described,
    *,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="A .html, .svg, .dot, .mmd or .json.", metavar="FILE"),
    ],
    mode: Mode = "train",
    analyze: Analyze = False,
    store: StorePath = None,
    samples: Annotated[
        int,
        typer.Option(
            min=0, help="Rows to show after every node; none by default, rows may be private."
        ),
    ] = 0,
) -> None:
    """Draw the graph as a page, a picture or a diagram, or write it as JSON."""
    check_ending(out)
    write_view(describe(project, mode, store, is_analyzed=analyze, samples=samples), out)


def check_ending(out: Path) -> None:
    """Refuse a file whose name does not tell what to write, before anything is planned."""
    endings = (".html", ".svg", ".dot", ".mmd", ".json", ".txt")
    if out.suffix not in endings:
        help_ = f"name it {', '.join(endings[:-1])} or {endings[-1]}"
        raise ProjectError.of("T0806", f'cannot write "{out.name}"', help_)


def write_view(view: Any, out: Path) -> None:
    """Write ``view`` as what the ending of ``out`` says."""
    from ...graph.render.formats import FORMATS  # noqa: PLC0415

    write_text(out, FORMATS[out.suffix](view))
    say(f"wrote {out}")


def describe(
    project: str,
    mode: str,
    store_path: str | None,
    *,
    is_analyzed: bool = False,
    of_passes: bool = False,
    samples: int = 0,
) -> Any:
    """Return the view, or the history, of a project file or, for a text with an arrow, of that instruction."""
    from ...storage.store import Store  # noqa: PLC0415
    from ..task import Mixture, Task  # noqa: PLC0415

    if mode not in ("train", "infer"):
        raise ProjectError.of("T0806", f'--mode is train or infer, got "{mode}"')
    loaded = None if "->" in project else load(Path(project))
    mixture = Mixture([Task("task", project)]) if loaded is None else loaded.mixture
    if store_path:
        store = Store.open(store_path, storage_options=loaded.storage_options if loaded else None)
    else:
        store = loaded.find_store() if loaded else None
    if is_analyzed and (loaded is None or mode == "infer" or store is None):
        raise _nothing_measured(mode, loaded.store if loaded else "", is_project=loaded is not None)
    for task in mixture.tasks:
        task.parse(mixture.modalities())  # what is wrong here is told before torch is imported
    from ..viewer.analysis import analyze  # noqa: PLC0415
    from ..viewer.inspection import open_plan, view_history, view_plan  # noqa: PLC0415

    planned = open_plan(mixture, store, mode, None if loaded is None else loaded.model)
    title = project.strip() if loaded is None else loaded.path.stem
    if of_passes:
        return view_history(planned, title=title, store=store)
    analysis = None
    if is_analyzed and loaded is not None and store is not None:
        analysis = analyze(
            planned, mixture, store, run=loaded.out, model=loaded.model, config=loaded.train
        )
    previews = None
    if samples:
        from ..viewer.previews import sample_previews  # noqa: PLC0415

        previews = sample_previews(planned, mixture, store, samples)
    return view_plan(
        planned, title=title, store=store, project=project, analysis=analysis, previews=previews
    )


def _nothing_measured(mode: str, store: Path | str, *, is_project: bool) -> ProjectError:
    """Return why nothing can be analyzed: there is no store, or none that tells of ``mode``."""
    if not is_project:
        message, help_ = "an instruction alone has never run", "give a project file with its rows"
    elif mode == "infer":
        message, help_ = "answering is not measured", "leave --mode infer out"
    else:
        message, help_ = (
            f"there is no store at {store}",
            "taskloom build PROJECT makes it, and measures",
        )
    return ProjectError.of("T0290", f"nothing to analyze: {message}", help_)
