"""The verbs of ops: what is installed, what one of them does, and whether its code is that of its version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ...graph.errors import PlanError
from ..terminal import print_json, say
from .argument import Json

if TYPE_CHECKING:
    from ...ops.package import OpPackage

Package = Annotated[
    str, typer.Option("--package", help="A distribution, or its package.", metavar="NAME")
]

ops = typer.Typer(
    name="ops", no_args_is_help=True, help="Show ops, and check that their code keeps its version."
)


@ops.command("list")
def list_(*, as_json: Json = False) -> None:
    """List all ops, taskloom's and those of plug-ins."""
    from ...ops.plugin import find_installed  # noqa: PLC0415
    from ..planner.op_help import describe_ops  # noqa: PLC0415

    rows = describe_ops()
    broken = find_installed().broken
    if as_json:
        print_json({"ops": rows, "broken": [problem.to_dict() for problem in broken]})
    else:
        heads = {key: key for key in rows[0]}
        table = [heads, *({key: str(value) for key, value in row.items()} for row in rows)]
        widths = [max(len(row[key]) for row in table) for key in heads]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row.values(), widths, strict=True))
            say("  ".join(cells).rstrip())
    if broken:
        raise PlanError(*broken)


@ops.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the op.", metavar="NAME")],
) -> None:
    """Show what an op does, its parameters and ports, and how it is called by hand."""
    from ..planner.op_help import explain_op  # noqa: PLC0415

    say(explain_op(name))


@ops.command()
def check(*, package: Package = "") -> None:
    """Check that no op's code moved under its version."""
    found = _packages(package)
    problems = [problem for one in found for problem in one.check()]
    if problems:
        raise PlanError(*problems)
    for one in found:
        say(f"{one.origin}: the code of every op is that of its version")


@ops.command()
def lock(
    *,
    package: Package = "taskloom",
    same_output: Annotated[
        list[str] | None,
        typer.Option(
            "--same-output",
            help="An op whose code moved, and which computes what it did; it is tried.",
            metavar="OP",
        ),
    ] = None,
) -> None:
    """Note version, code and results of every op in the package's lock."""
    (found,) = _packages(package)
    say(f"wrote {found.lock(same_output=same_output or ())}")


def _packages(name: str) -> tuple[OpPackage, ...]:
    from ...ops.package import find_package, find_packages  # noqa: PLC0415

    return (find_package(name),) if name else find_packages()
