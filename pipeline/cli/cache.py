"""The verbs of compiled code: pack what the compiler made, and load it where it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import say

Archive = Annotated[Path, typer.Argument(help="The archive.", metavar="FILE")]

cache = typer.Typer(
    name="cache", no_args_is_help=True, help="Carry compiled code from machine to machine."
)


@cache.command()
def pack(archive: Archive) -> None:
    """Write what torch's compiler made here into one archive, with what it depends on."""
    from ..model.compile_cache import pack_compiled  # noqa: PLC0415 - it imports torch

    say(str(pack_compiled(archive)))


@cache.command()
def load(archive: Archive) -> None:
    """Unpack an archive to where torch's compiler looks; one that does not fit here is a miss, and no error."""
    from ..model.compile_cache import load_compiled  # noqa: PLC0415 - it imports torch

    say(str(load_compiled(archive)))
