"""The verb that takes models of others over: import-checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..terminal import print_json, say
from .argument import Json


def import_checkpoint(
    path: Annotated[
        Path, typer.Argument(help="A file of torch, such as ofa_base.pt.", metavar="FILE")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write the checkpoint to.")],
    *,
    symbols: Annotated[
        Path | None,
        typer.Option(
            help="Its dictionary: a symbol a line, or dict.txt of fairseq.", metavar="FILE"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a checkpoint of OFA or OFASys one to begin with; nothing in the file is run."""
    from ..model.importing import import_checkpoint as run  # noqa: PLC0415 - it imports torch

    found = run(path, out, symbols=symbols)
    if as_json:
        print_json({**asdict(found), "path": str(found.path)})
        return
    model = found.model
    layers = f"{model.num_encoder_layers} + {model.num_decoder_layers} layers of {model.width}"
    say(f"{found.path}: {layers}, trunk {model.trunk or 'none'}, {found.num_ids:,} ids")
    if not found.has_symbols:
        say("its dictionary is not known, so no id can be told: give it with --symbols")
    for name in found.kept:
        say(f"kept, and read by no part of a model: {name}")
