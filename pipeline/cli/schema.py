"""The verb that prints the schemas of what taskloom writes and reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from ...graph.errors import ProjectError, suggest
from ..terminal import print_json


def _view() -> dict[str, Any]:
    from ...graph.render.schema import view_schema  # noqa: PLC0415

    return view_schema()


def _project() -> dict[str, Any]:
    from ..config.schema import project_schema  # noqa: PLC0415
    from ..task import Mixture, Task  # noqa: PLC0415

    # Recipes that are installed beside taskloom's own add to the table.
    return project_schema(Mixture([Task("any", "-> [TEXT:any]")]).modalities())


SCHEMAS: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    "project": _project,
    "view": _view,
}
"""What has a schema: ``project``, a project file; ``view``, what explain, graph and diff write as JSON."""


def schema(
    what: Annotated[str, typer.Argument(help="project, or view.", metavar="WHAT")],
) -> None:
    """Print a JSON schema, for editors and programs."""
    if what not in SCHEMAS:
        raise ProjectError.of("T0806", f'"{what}" has no schema', suggest(what, SCHEMAS))
    print_json(SCHEMAS[what]())
