"""The verb that hands rows on: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import print_json
from .argument import Json, ProjectPath, load


def export(
    project: ProjectPath,
    task: Annotated[
        str | None, typer.Argument(help="A task's name; all of them by default.", metavar="[TASK]")
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    format_: Annotated[
        str, typer.Option("--format", help="parquet, webdataset or huggingface.", metavar="FORMAT")
    ] = "parquet",
    split: Annotated[
        str | None, typer.Option(help="train, valid or test; all by default.", metavar="SPLIT")
    ] = None,
    columns: Annotated[
        str, typer.Option(help="stored, or source: the source's columns.", metavar="COLUMNS")
    ] = "stored",
    images: Annotated[
        str, typer.Option(help="Pictures as png, or npy: their pixels.", metavar="FORM")
    ] = "png",
    as_json: Json = False,
) -> None:
    """Write a task's rows as Parquet, WebDataset tars or a Hugging Face dataset."""
    loaded = load(project)
    from ..exporter.exporting import export as run  # noqa: PLC0415 - it imports torch

    choices: dict[str, Any] = {
        "task": task,
        "format": format_,
        "split": split,
        "columns": columns,
        "images": images,
    }
    report = run(loaded.mixture, loaded.open_store(), out, progress=not as_json, **choices)
    if as_json:
        files = {name: [str(path) for path in paths] for name, paths in report.files.items()}
        facts = {"rows": report.rows, "files": files, "written": report.written}
        print_json(facts | {"bytes": report.bytes})
