"""The verbs that compute: build, fit, train, evaluate, infer, verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...graph.errors import ProjectError
from ...ops.device.decode.search import Search
from ..config.decode_section import set_keys
from ..terminal import print_json, read_rows, say, say_answer
from .argument import Json, ProjectPath, load, open_store


def build(
    project: ProjectPath,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, and stop.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads and processes; one a core by default.")
    ] = None,
    max_errors: Annotated[
        float | None,
        typer.Option(min=0, help="Bad rows at most: a count or, below 1, a share."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute what the project's store lacks."""
    loaded = load(project)
    from ..builder.building import build as run  # noqa: PLC0415 - it imports Dask

    report = run(
        loaded.mixture,
        loaded.make_store(),
        dry_run=dry_run,
        workers=workers,
        max_errors=max_errors,
        progress=not as_json,
    )
    if as_json:
        facts = {name: getattr(report, name) for name in _REPORT}
        facts["tasks"] = {name: count._asdict() for name, count in report.tasks.items()}
        facts["problems"] = [problem.to_dict() for problem in report.problems]
        print_json(facts)


def fit(
    project: ProjectPath,
    *,
    again: Annotated[
        list[str] | None,
        typer.Option(help="Artifact to fit anew; may be repeated.", metavar="NAME"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fitted and what follows, and stop.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads and processes; one a core by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit what the store lacks and, anew, what --again names; say first which columns follow."""
    loaded = load(project)
    from ..builder.refitting import fit as run  # noqa: PLC0415 - it imports Dask

    report = run(
        loaded.mixture,
        loaded.make_store(),
        again=again or (),
        dry_run=dry_run,
        workers=workers,
        progress=not as_json,
    )
    if as_json:
        print_json(asdict(report))


def train(
    project: ProjectPath,
    *,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps, instead of the project's.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Steps to trace, such as 20:23; as `train.profile`.", metavar="FIRST:END"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the project's model, or go on with a run that was interrupted."""
    loaded = load(project)
    from ..trainer.training import train as run  # noqa: PLC0415 - it imports torch

    given = {"steps": steps, "profile": profile}
    settings: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
    done = run(
        loaded.mixture,
        loaded.open_store(),
        out=loaded.out,
        model=loaded.model,
        config=loaded.train,
        progress=not as_json,
        **settings,
    )
    if done.rank:
        return
    if as_json:
        print_json({"run": str(done.path), "step": done.step})
    else:
        say(f"{done.path} is at step {done.step:,}")


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
    loaded = load(project)
    from ..answerer.evaluation import evaluate as run  # noqa: PLC0415 - it imports torch
    from ..answerer.inference import Model  # noqa: PLC0415 - so does this

    store = loaded.open_store()
    asked = Model.load(model or loaded.out)
    asked.search = loaded.decode
    scores = run(asked, loaded.mixture, store, split=split)
    if as_json:
        print_json(scores.to_json())
    else:
        say(str(scores))


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
    decode: Annotated[
        list[str] | None,
        typer.Option(
            help="A key of `decode`, for these rows; may be repeated.", metavar="KEY=VALUE"
        ),
    ] = None,
    weigh: Annotated[
        bool, typer.Option("--weigh", help="Weigh every answer of a closed set.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Keep weights that write in eight bits.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer rows, one line each; 1 is returned if some row cannot be answered."""
    if weigh and decode:
        message = "--weigh weighs every answer, and searches for none as --decode says"
        raise ProjectError.of("T0806", message, "leave out one of them")
    project = load(model) if model.is_file() else None
    path = model if project is None else project.out
    search = set_keys(Search() if project is None else project.decode, decode or ())
    given = read_rows(rows)
    from ..answerer.inference import Model  # noqa: PLC0415 - it imports torch

    loaded = Model.load(path, int8=int8) if given else None
    if loaded is None:
        predictions = []
    elif weigh:
        predictions = loaded.weigh(task, given, on_error="return")
    else:
        predictions = loaded.infer(task, given, search=search, on_error="return")
    for prediction in predictions:
        error = prediction.error
        if as_json:
            known = {"text": prediction.text, "log_prob": None if error else prediction.log_prob}
            others = [{"text": each.text, "log_prob": each.log_prob} for each in prediction.others]
            wrong = {"error": None} if error is None else error.to_dict()
            print_json(known | ({"others": others} if others else {}) | wrong, is_line=True)
            continue
        if error is not None:
            say(str(error), is_error=True)
        say_answer(prediction.text or "")
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(1)


def verify(
    project: Annotated[str, typer.Argument(help="A project file, or a store.", metavar="PROJECT")],
    *,
    as_json: Json = False,
) -> None:
    """Read every checksum of the store again."""
    opened = open_store(project)
    from ...storage.verify import verify as check  # noqa: PLC0415

    report = check(opened)
    if as_json:
        facts = {name: getattr(report, name) for name in ("columns", "partitions", "bytes")}
        print_json(facts | {"problems": [problem.to_dict() for problem in report.problems]})
    else:
        say(str(report))
    if report.problems:
        raise typer.Exit(1)


def verify_resume(
    project: ProjectPath,
    *,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps to make again from each place.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the packs of the project's run again, and compare them with its log."""
    loaded = load(project)
    from ..trainer.resuming import verify_resume as run  # noqa: PLC0415 - it imports torch

    report = run(
        loaded.mixture,
        loaded.open_store(),
        out=loaded.out,
        model=loaded.model,
        config=loaded.train,
        num_steps=steps,
    )
    if as_json:
        print_json(
            {
                "run": str(report.run),
                "compared": [asdict(each) for each in report.compared],
                "passed_over": list(report.passed_over),
            }
        )
    else:
        say(str(report))


_REPORT = ("partitions", "cached", "rows", "rejects", "bytes", "fitted", "seconds", "is_dry")
