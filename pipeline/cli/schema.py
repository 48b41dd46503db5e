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


SCHEMAS: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    "view": _view,
}
"""What has a schema: ``view``, what explain, graph and diff write as JSON."""


def schema(
    what: Annotated[str, typer.Argument(help="view.", metavar="WHAT")],
) -> None:
    """Print a JSON schema, for editors and programs."""
    if what not in SCHEMAS:
        raise ProjectError.of("T0806", f'"{what}" has no schema', suggest(what, SCHEMAS))
    print_json(SCHEMAS[what]())
