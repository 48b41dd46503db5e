"""The command line: one project file, seven verbs.

Errors are said without a traceback, unless ``--debug`` asks for it. Exit codes: 0 done, 1 something is wrong
with the input, 2 the command was not understood, 130 interrupted.

A verb reads its project before it imports what computes: what is wrong in the file is told at once, and
``--help`` loads neither torch nor Dask.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..graph.errors import ProjectError, TaskloomError
from .terminal import describe, print_json, read_rows, say, say_answer

if TYPE_CHECKING:
    from .project import Project

app = typer.Typer(
    name="taskloom",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ProjectPath = Annotated[Path, typer.Argument(help="The project file.", metavar="PROJECT")]
Described = Annotated[
    str, typer.Argument(help="A project file, or an instruction.", metavar="PROJECT")
]
Mode = Annotated[str, typer.Option(help="train, or infer.", metavar="MODE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def _print_version(is_wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if is_wanted:
        typer.echo(installed_version("taskloom"))
        raise typer.Exit


@app.callback()
def begin(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; works after a verb as well.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """One line of text becomes a typed graph, a store of columns and a trained model."""
    del (
        debug,
        version,
    )  # `main` has taken the first from the arguments, and the second has ended all


@app.command()
def build(
    project: ProjectPath,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, and stop.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads and processes; one a core by default.")
    ] = None,
    refit: Annotated[
        list[str] | None, typer.Option(help="Artifact to fit again; may be repeated.")
    ] = None,
    max_errors: Annotated[
        float | None,
        typer.Option(min=0, help="Bad rows at most: a count or, below 1, a share."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute what the project's store lacks."""
    loaded = _load(project)
    from .building import build as run  # noqa: PLC0415 - it imports torch

    report = run(
        loaded.mixture,
        loaded.store,
        dry_run=dry_run,
        workers=workers,
        refit=refit or (),
        max_errors=max_errors,
        progress=not as_json,
    )
    if as_json:
        facts = {name: getattr(report, name) for name in _REPORT}
        facts["tasks"] = {name: count._asdict() for name, count in report.tasks.items()}
        facts["problems"] = [describe(problem) for problem in report.problems]
        print_json(facts)


@app.command()
def train(
    project: ProjectPath,
    *,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps, instead of the project's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the project's model, or go on with a run that was interrupted."""
    loaded = _load(project)
    from .training import train as run  # noqa: PLC0415 - it imports torch

    settings = {} if steps is None else {"steps": steps}
    done = run(
        loaded.mixture,
        loaded.store,
        out=loaded.out,
        model=loaded.model,
        config=loaded.train,
        progress=not as_json,
        **settings,
    )
    if as_json:
        print_json({"run": str(done.path), "step": done.step})
    else:
        say(f"{done.path} is at step {done.step:,}")


@app.command()
def evaluate(
    project: ProjectPath,
    *,
    split: Annotated[str, typer.Option(help="test, or valid.", metavar="SPLIT")] = "test",
    model: Annotated[
        Path | None, typer.Option(help="A run or a checkpoint, instead of the project's run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score the model on the held-out rows of every task."""
    if split not in ("test", "valid"):
        raise ProjectError.of("T0806", f'--split is test or valid, got "{split}"')
    loaded = _load(project)
    from ..storage.store import Store  # noqa: PLC0415
    from .evaluation import evaluate as run  # noqa: PLC0415 - it imports torch
    from .inference import Model  # noqa: PLC0415 - so does this

    store = Store.open(loaded.store)
    scores = run(Model.load(model or loaded.out), loaded.mixture, store, split=split)
    if as_json:
        print_json(scores.to_json())
    else:
        say(str(scores))


@app.command()
def infer(
    model: Annotated[
        Path, typer.Argument(help="A project file, a run or a checkpoint.", metavar="MODEL")
    ],
    task: Annotated[str, typer.Argument(help="A task's name, or an instruction.", metavar="TASK")],
    rows: Annotated[
        Path | None,
        typer.Argument(
            help="JSON lines, one row each; standard input by default.", metavar="[ROWS]"
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Answer rows, one line each; 1 is returned if some row cannot be answered."""
    path = _load(model).out if model.is_file() else model
    given = read_rows(rows)
    from .inference import Model  # noqa: PLC0415 - it imports torch

    predictions = Model.load(path).infer(task, given, on_error="return") if given else []
    for prediction in predictions:
        error = prediction.error
        if as_json:
            known = {"text": prediction.text, "log_prob": None if error else prediction.log_prob}
            print_json(known | {"error": None if error is None else str(error)}, is_line=True)
            continue
        if error is not None:
            say(str(error), is_error=True)
        say_answer(prediction.text or "")
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(1)


@app.command()
def explain(project: Described, *, mode: Mode = "train", as_json: Json = False) -> None:
    """Show what is computed, where, and what is stored."""
    view = _view(project, mode)
    from ..graph.explain import explain as write  # noqa: PLC0415

    if as_json:
        print_json(view)
    else:
        typer.echo(write(view), nl=False)


@app.command()
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
    from ..graph.render.page import render_page  # noqa: PLC0415

    text = render_page(view) if out.suffix == ".html" else json.dumps(view, indent=1)
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise ProjectError.of("T0806", f"cannot write {out}: {error.strerror}") from None
    say(f"wrote {out}")


@app.command()
def verify(
    project: Annotated[Path, typer.Argument(help="A project file, or a store.", metavar="PROJECT")],
    *,
    as_json: Json = False,
) -> None:
    """Read every checksum of the store again."""
    path = project if project.is_dir() else _load(project).store
    from ..storage.store import Store  # noqa: PLC0415
    from ..storage.verify import verify as check  # noqa: PLC0415

    report = check(Store.open(path))
    if as_json:
        facts = {name: getattr(report, name) for name in ("columns", "partitions", "bytes")}
        print_json(facts | {"problems": [describe(problem) for problem in report.problems]})
    else:
        say(str(report))
    if report.problems:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    # Threads of torch that wait must sleep, or a busy machine crawls; it must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except TaskloomError as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        say(str(error), is_error=True)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != _INTERRUPTED:
            raise
        typer.echo("interrupted; the same command goes on where this one stopped", err=True)
        sys.exit(_INTERRUPTED)


def _load(path: Path) -> Project:
    from .project import load_project  # noqa: PLC0415 - only verbs need it

    return load_project(path)


def _view(project: str, mode: str) -> Any:
    """Return the view of a project file or, for a text with an arrow, of that instruction."""
    from ..storage.store import Store  # noqa: PLC0415
    from .task import Mixture, Task  # noqa: PLC0415

    if mode not in ("train", "infer"):
        raise ProjectError.of("T0806", f'--mode is train or infer, got "{mode}"')
    loaded = None if "->" in project else _load(Path(project))
    mixture = Mixture([Task("task", project)]) if loaded is None else loaded.mixture
    store = model = None
    if loaded is not None:
        is_built = (loaded.store / "store.json").exists()
        store, model = Store.open(loaded.store) if is_built else None, loaded.model
    for task in mixture.tasks:
        task.parse()  # what is wrong here is told before torch is imported
    from .inspection import plan_for_view, view_plan  # noqa: PLC0415

    planned = plan_for_view(mixture, store, mode, model)
    title = project if loaded is None else loaded.path.stem
    return view_plan(planned, title=title, store=store)


_INTERRUPTED = 130
_REPORT = ("partitions", "cached", "rows", "rejects", "bytes", "fitted", "seconds", "is_dry")
