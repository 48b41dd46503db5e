"""The verb that makes a model of a run: consolidate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import print_json, say
from .argument import Json


def consolidate(
    model: Annotated[Path, typer.Argument(help="A run or a checkpoint.", metavar="RUN")],
    out: Annotated[Path, typer.Argument(help="Folder to write to.", metavar="OUT")],
    *,
    as_json: Json = False,
) -> None:
    """Write the model of a run to one folder, in one file, without what only resuming needs."""
    from ..model.consolidating import consolidate as run  # noqa: PLC0415 - it imports torch

    taken = run(model, out)
    if as_json:
        print_json({"checkpoint": str(taken), "model": str(out)})
    else:
        say(f"{out} holds the model of {taken}")
