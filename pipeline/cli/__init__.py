"""The command line: one project file, and a verb for each thing to do with it.

Errors are said without a traceback, unless ``--debug`` asks for it; with ``--json`` they are JSON on standard
output, so that a program has one thing to read. Exit codes: 0 done, 1 something is wrong
with the input, 2 the command was not understood, 130 interrupted.

A verb reads its project before it imports what computes: what is wrong in the file is told at once, and
``--help`` loads neither torch nor Dask.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Annotated, Any, Final

import typer

from ...graph.errors import TaskloomError
from ..terminal import print_json, say, told_warnings
from .cache import cache
from .compare import diff
from .consolidate import consolidate
from .debug import ledger, peek, replay, why
from .error import error
from .export import export
from .import_ import export_checkpoint, import_checkpoint
from .language import slots
from .look import explain, graph
from .ops import ops
from .package import export_model
from .plan_run import plan_run
from .report import report
from .run import build, evaluate, fit, infer, train, verify, verify_resume
from .schema import schema

VERBS: Final[tuple[Callable[..., Any], ...]] = (
    build,
    fit,
    plan_run,
    train,
    report,
    evaluate,
    infer,
    export,
    export_model,
    import_checkpoint,
    export_checkpoint,
    consolidate,
    explain,
    graph,
    diff,
    slots,
    why,
    peek,
    ledger,
    replay,
    verify,
    verify_resume,
    schema,
    error,
)
"""What the command can do, in the order in which ``--help`` lists it."""

app = typer.Typer(
    name="taskloom",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if is_wanted:
        typer.echo(installed_version("taskloom"))
        raise typer.Exit


@app.callback()
def begin(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; works after a verb as well.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """One line of text becomes a typed graph, a store of columns and a trained model."""
    # `main` has taken the first from the arguments, and the second has ended all.
    del debug, version


for _verb in VERBS:
    app.command()(_verb)
app.add_typer(ops)
app.add_typer(cache)


def _with_broken_plugins(error: TaskloomError) -> TaskloomError:
    from ...ops.plugin import tell_broken  # noqa: PLC0415 - only errors need it

    return tell_broken(error)


def main() -> None:
    """Run the command line."""
    # Threads of torch that wait must sleep, or a busy machine crawls; it must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = [argument for argument in sys.argv[1:] if argument != "--debug"]
    # An instruction may begin with its arrow; with a space before it, it is no option.
    arguments = [f" {one}" if one.startswith("->") else one for one in given]
    try:
        with told_warnings():
            app(arguments)
    except TaskloomError as refusal:
        if len(arguments) < len(sys.argv) - 1:
            raise
        refusal = _with_broken_plugins(refusal)
        if "--json" in arguments:
            print_json(refusal.to_dict(), is_line=True)
        else:
            say(str(refusal), is_error=True)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != _INTERRUPTED:
            raise
        typer.echo("interrupted; the same command goes on where this one stopped", err=True)
        sys.exit(_INTERRUPTED)


_INTERRUPTED: Final = 130
