"""The verb that makes native code of a model: export-model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..terminal import print_json, say
from .argument import Json


def export_model(
    model: Annotated[Path, typer.Argument(help="A run or a checkpoint.", metavar="MODEL")],
    task: Annotated[str, typer.Argument(help="A task's name, or an instruction.", metavar="TASK")],
    out: Annotated[Path, typer.Argument(help="Folder to write to.", metavar="OUT")],
    *,
    documents: Annotated[
        int, typer.Option(help="Rows that are answered at a time.", min=1, metavar="N")
    ] = 1,
    source_tokens: Annotated[
        int, typer.Option(help="Most tokens of a row.", min=1, metavar="N")
    ] = 128,
    as_json: Json = False,
) -> None:
    """Compile a task of a model to native code, which torch runs without Python."""
    from ..answerer.inference import Model  # noqa: PLC0415 - it imports torch
    from ..answerer.packaging import export_model as run  # noqa: PLC0415 - it imports torch

    loaded = Model.load(model)
    if not as_json:
        say("compiling two programs, which takes a minute or so", is_error=True)
    packaged = run(loaded, task, out, documents=documents, source_tokens=source_tokens)
    if as_json:
        print_json({**asdict(packaged), "path": str(packaged.path)})
    else:
        say(str(packaged))
