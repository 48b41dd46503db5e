"""The verbs that take models of OFASys over and hand ours back: import-checkpoint, export-checkpoint."""

from __future__ import annotations

import json
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
    has_biases: Annotated[
        bool | None,
        typer.Option(
            "--biases/--no-biases",
            help="Whether attention has biases (use_self_attn_bias); by default as the file tells.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a checkpoint of OFA or OFASys one to begin with; nothing in the file is run."""
    from ...ops.device.config import ModelConfig  # noqa: PLC0415 - it imports torch
    from ..model.importing import import_checkpoint as run  # noqa: PLC0415 - it imports torch

    found = run(path, out, symbols=symbols, has_biases=has_biases)
    if as_json:
        print_json({**asdict(found), "path": str(found.path)})
        return
    model = found.model
    layers = f"{model.num_encoder_layers} + {model.num_decoder_layers} layers of {model.width}"
    say(f"{found.path}: {layers}, trunk {model.trunk or 'none'}, {found.num_ids:,} ids")
    default = asdict(ModelConfig())
    sizes = {name: size for name, size in asdict(model).items() if size != default[name]}
    say(f"model: {json.dumps(sizes)}")
    if not model.relative_bias:
        say("attention has no biases: queries of the encoder are scaled, gains of its heads are 1")
    if not found.has_symbols:
        say("its dictionary is not known, so no id can be told: give it with --symbols")
    for name in found.kept:
        say(f"kept, and read by no part of a model: {name}")


def export_checkpoint(
    model: Annotated[Path, typer.Argument(help="A run or a checkpoint.", metavar="RUN")],
    out: Annotated[Path, typer.Argument(help="File to write the state to.", metavar="OUT.pt")],
    *,
    as_json: Json = False,
) -> None:
    """Write a model of the OFA family as OFASys has it: its tensors, settings and dictionary."""
    from ..model.handing_back import export_checkpoint as run  # noqa: PLC0415 - it imports torch

    written = run(model, out)
    if as_json:
        print_json({**asdict(written), "path": str(written.path)})
        return
    say(f"{written.path}: {written.num_tensors:,} tensors under names of OFASys")
    for name in written.left_out:
        say(f"left out, since OFASys has no name for it: {name}")
    if not written.has_symbols:
        say(f"what its {written.num_ids:,} ids stand for is not known, so there is no dictionary")
