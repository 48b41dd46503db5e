"""The verb of the language: slots."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..terminal import print_json, say
from .argument import Json, load

Described = Annotated[
    str, typer.Argument(help="A project file, or an instruction.", metavar="PROJECT")
]


def slots(project: Described, *, as_json: Json = False) -> None:
    """Show the slots of instructions, also where they cannot be planned yet."""
    from ..planner.slots import list_slots, write_slots  # noqa: PLC0415 - only this verb needs it
    from ..task import Mixture, Task  # noqa: PLC0415

    is_text = "->" in project
    mixture = Mixture([Task("task", project)]) if is_text else load(Path(project)).mixture
    modalities, recipes = mixture.modalities(), mixture.recipes()
    templates = [one for task in mixture.tasks for one in task.parse(modalities)]
    if as_json:
        print_json([asdict(row) for row in list_slots(templates, recipes)])
    else:
        say(write_slots(templates, recipes))
