"""The command line: one project file, seven verbs.

Errors are said without a traceback, unless ``--debug`` asks for it. Exit codes: 0 done, 1 something is wrong
with the input, 2 the command was not understood, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..graph.errors import ProjectError, TaskloomError

app = typer.Typer(
    name="taskloom",
    help="One line of text becomes a typed graph, a store of columns and a trained model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ProjectPath = Annotated[Path, typer.Argument(help="The project file.", metavar="PROJECT")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.callback()
def begin(context: typer.Context, *, debug: Debug = False) -> None:
    """One line of text becomes a typed graph, a store of columns and a trained model."""
    context.obj = debug


@app.command()
def build(
    project: ProjectPath,
    *,
    dry_run: Annotated[bool, typer.Option(help="Say what would be built, and stop.")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads and processes; one a core.")] = None,
    refit: Annotated[list[str] | None, typer.Option(help="Artifact to fit again.")] = None,
    max_errors: Annotated[
        float | None, typer.Option(help="Bad rows at most: count or share.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute what the project's store lacks."""
    from .building import build as run  # noqa: PLC0415 - torch is imported when it is needed
    from .project import load_project  # noqa: PLC0415

    loaded = load_project(project)
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
        _print_json({name: getattr(report, name) for name in _REPORT})
    elif dry_run:
        typer.echo(str(report))


@app.command()
def train(
    project: ProjectPath,
    *,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of the project's.")] = None,
    as_json: Json = False,
) -> None:
    """Train the project's model, or go on with a run that was interrupted."""
    from .project import load_project  # noqa: PLC0415
    from .training import train as run  # noqa: PLC0415

    loaded = load_project(project)
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
        _print_json({"run": str(done.path), "step": done.step})
    else:
        typer.echo(f"{done.path} is at step {done.step:,}")


@app.command()
def evaluate(
    project: ProjectPath,
    *,
    split: Annotated[str, typer.Option(help="test, or valid.")] = "test",
    model: Annotated[
        Path | None, typer.Option(help="A run or checkpoint, not the project's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score the model on the held-out rows of every task."""
    from .evaluation import evaluate as run  # noqa: PLC0415
    from .inference import Model  # noqa: PLC0415
    from .project import load_project  # noqa: PLC0415

    if split not in ("test", "valid"):
        raise ProjectError.of("T0806", f'--split is test or valid, got "{split}"')
    loaded = load_project(project)
    scores = run(Model.load(model or loaded.out), loaded.mixture, str(loaded.store), split=split)
    _print_json(scores.to_json()) if as_json else typer.echo(str(scores))


@app.command()
def infer(
    model: Annotated[Path, typer.Argument(help="A run or a checkpoint.")],
    task: Annotated[str, typer.Argument(help="A task's name, or an instruction.")],
    rows: Annotated[
        Path | None, typer.Argument(help="JSON lines, one row each; standard input if not given.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Answer rows."""
    from .inference import Model  # noqa: PLC0415

    text = sys.stdin.read() if rows is None else _read(rows)
    for prediction in Model.load(model).infer(task, _parse_rows(text), on_error="return"):
        if as_json:
            error = None if prediction.error is None else str(prediction.error)
            line = {"text": prediction.text, "log_prob": prediction.log_prob, "error": error}
            typer.echo(json.dumps(line if error is None else line | {"log_prob": None}))
        elif prediction.error is not None:
            typer.echo(str(prediction.error), err=True)
            typer.echo("")
        else:
            typer.echo(prediction.text)


@app.command()
def explain(
    project: Annotated[str, typer.Argument(help="A project file, or an instruction.")],
    *,
    mode: Annotated[str, typer.Option(help="train, or infer.")] = "train",
    as_json: Json = False,
) -> None:
    """Show what is computed, where, and what is stored."""
    from ..graph.explain import explain as write  # noqa: PLC0415

    view = _view(project, mode)
    _print_json(view) if as_json else typer.echo(write(view), nl=False)


@app.command()
def graph(
    project: Annotated[str, typer.Argument(help="A project file, or an instruction.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="graph.html or graph.json.")],
    mode: Annotated[str, typer.Option(help="train, or infer.")] = "train",
) -> None:
    """Draw the graph as a page, or write it as JSON."""
    from ..graph.render.page import render_page  # noqa: PLC0415

    if out.suffix not in (".html", ".json"):
        raise ProjectError.of("T0806", f'cannot write "{out.name}"', "name it .html or .json")
    view = _view(project, mode)
    text = render_page(view) if out.suffix == ".html" else json.dumps(view, indent=1)
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise ProjectError.of("T0806", f"cannot write {out}: {error.strerror}") from None
    typer.echo(f"wrote {out}")


@app.command()
def verify(
    project: Annotated[Path, typer.Argument(help="A project file, or a store.")],
    *,
    as_json: Json = False,
) -> None:
    """Read every checksum of the store again."""
    from ..storage.store import Store  # noqa: PLC0415
    from ..storage.verify import verify as check  # noqa: PLC0415

    if project.is_dir():
        store = Store.open(project)
    else:
        from .project import load_project  # noqa: PLC0415

        store = Store.open(load_project(project).store)
    report = check(store)
    if as_json:
        _print_json({"problems": [str(problem) for problem in report.problems]})
    else:
        typer.echo(str(report))
    if report.problems:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    # Threads of torch that wait must sleep, or a busy machine crawls; it must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    is_debug = "--debug" in sys.argv
    try:
        app()
    except TaskloomError as error:
        if is_debug:
            raise
        typer.echo(str(error), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on", err=True)
        sys.exit(130)


def _view(project: str, mode: str) -> Any:
    from .inspection import plan_for_view, view_plan  # noqa: PLC0415
    from .project import load_project  # noqa: PLC0415
    from .task import Mixture, Task  # noqa: PLC0415

    if mode not in ("train", "infer"):
        raise ProjectError.of("T0806", f'--mode is train or infer, got "{mode}"')
    if "->" in project:
        mixture, store, title = Mixture([Task("task", project)]), None, project
    else:
        loaded = load_project(project)
        mixture, title = loaded.mixture, loaded.path.stem
        store = _open_store(loaded.store)
    planned = plan_for_view(mixture, store, mode)
    return view_plan(planned, title=title, store=store)


def _open_store(path: Path) -> Any:
    from ..storage.store import Store  # noqa: PLC0415

    return Store.open(path) if (path / "store.json").exists() else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ProjectError.of("T0806", f"cannot read {path}: {error.strerror}") from None


def _parse_rows(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except json.JSONDecodeError as error:
            raise ProjectError.of("T0807", f"line {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            help_ = 'give one object a line, such as {"text": "…"}'
            raise ProjectError.of("T0807", f"line {number} is no row", help_)
        rows.append(row)
    return rows


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=1, default=str))


_REPORT = ("partitions", "cached", "rows", "rejects", "bytes", "fitted", "seconds", "is_dry")
