"""The verbs that question: why, peek, ledger and replay."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...graph.errors import ProjectError
from ..terminal import print_json, say, write_text
from .argument import Json, ProjectPath, is_store, load, open_store

if TYPE_CHECKING:
    from ..builder.capsule import Capsule
    from ..config.project import Project
    from ..task import Task
    from ..viewer.trace import Trace

StorePath = Annotated[str, typer.Argument(help="A store, or a project file.", metavar="STORE")]


def why(
    project: ProjectPath,
    task: Annotated[str | None, typer.Argument(help="Of this task only.", metavar="[TASK]")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Say of every column whether it is cached and, if not, what changed from what to what."""
    loaded = load(project)
    if task is not None:
        _ = loaded.mixture[task]  # a name that is none is told before torch is imported
    from ..viewer.reasons import why as run  # noqa: PLC0415

    found = run(loaded.mixture, loaded.open_store(), task=task)
    if as_json:
        columns = [asdict(column) | {"why": str(column)} for column in found]
        print_json({"columns": columns, "fits": found.fits, "remarks": found.remarks})
    else:
        say(str(found))


def peek(
    project: ProjectPath,
    task: Annotated[str, typer.Argument(help="Name of a task.", metavar="TASK")],
    *,
    row: Annotated[
        str,
        typer.Option(
            help="A number from 0 on, a row id such as 5c1f:1499, column=value, or a value of the key.",
            metavar="ROW",
        ),
    ] = "0",
    at: Annotated[
        str | None, typer.Option(help="Show this node alone; it may be of the device half.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Count rows of train, valid or test only.", metavar="SPLIT"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a page instead.", metavar="FILE.html")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one row after every node, from its source to its document; 1 is returned for a bad row."""
    if split not in (None, "train", "valid", "test"):
        raise ProjectError.of("T0806", f'--split is train, valid or test, got "{split}"')
    loaded = load(project)
    chosen = loaded.mixture[task]
    trace, remark = _trace(loaded, chosen, row, split, at)
    if out is not None:
        from ..viewer.peek_page import render_trace  # noqa: PLC0415

        write_text(out, render_trace(trace))
        say(f"wrote {out}")
    elif as_json:
        print_json(_describe_trace(trace))
    else:
        from rich.console import Console  # noqa: PLC0415

        from ..viewer.peek_text import print_trace  # noqa: PLC0415

        if remark:
            say(remark)
        print_trace(trace, Console())
    if trace.problems:
        raise typer.Exit(1)


def _trace(loaded: Project, task: Task, row: str, split: Any, at: str | None) -> tuple[Trace, str]:
    """Return the trace of a row, and what a person should know of how it was made."""
    from ...storage.checkpoint import latest_checkpoint  # noqa: PLC0415
    from ..viewer.inspection import open_plan  # noqa: PLC0415 - it imports torch
    from ..viewer.pick import pick_row  # noqa: PLC0415 - so does this
    from ..viewer.trace import trace_node, trace_row  # noqa: PLC0415 - and this

    store = loaded.find_store()
    planned = open_plan(loaded.mixture, store, model=loaded.model)
    node = None if at is None else planned[at].node
    picked = pick_row(planned, task, store, row, split)
    if node is None:
        return trace_row(planned, task.name, picked.table, row=picked.row), ""
    run = latest_checkpoint(loaded.out)
    made = trace_node(planned, task.name, picked.table, node, row=picked.row, model=run)
    if planned.cut.stages[node.id] != "device":
        return made, ""
    return made, f"with the parameters of {run}" if run else "with new parameters, of seed 0"


def _describe_trace(trace: Trace) -> dict[str, Any]:
    return {
        "task": trace.task,
        "row": trace.row,
        "steps": [
            {
                "address": step.address_in(trace.task),
                "op": step.node.op,
                "types": {port: str(type_) for port, type_ in step.node.types.items()},
                "preview": step.preview,
                "problem": None if step.problem is None else step.problem.to_dict(),
                "note": step.note,
            }
            for step in trace.steps
        ],
    }


def ledger(store: StorePath, *, as_json: Json = False) -> None:
    """List the rows that could not be computed, by what is wrong with them.

    Of a project, those of the columns that it needs as it stands now.
    """
    opened, keys = open_store(store), _column_keys(store)
    from ..builder.bad_rows import group_bad_rows  # noqa: PLC0415

    groups = group_bad_rows(opened, keys)
    if as_json:
        print_json({"groups": [asdict(group) for group in groups]})
        return
    for group in groups:
        say(str(group))
    if groups:
        say(f"try one again: taskloom replay {store} {groups[0].ids[0]}")
    else:
        say("there are no bad rows")


def replay(
    store: Annotated[
        str,
        typer.Argument(help="A store, a project file, or a saved capsule.", metavar="STORE|FILE"),
    ],
    row: Annotated[
        str | None,
        typer.Argument(help="Id of a bad row, such as 5c1f:1499.", metavar="[ID]"),
    ] = None,
    *,
    pdb: Annotated[
        bool, typer.Option("--pdb", help="Open pdb where the op raises, with op and inputs.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(help="Write row, graph and versions to a file of its own.", metavar="FILE"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try a bad row again; 1 is returned while it still fails."""
    capsules = _capsules(store, row)
    from ..builder.replaying import Outcome  # noqa: PLC0415
    from ..builder.replaying import replay as run  # noqa: PLC0415

    if save is not None:
        if len(capsules) > 1:
            nodes = ", ".join(capsule.node.key[:8] for capsule in capsules)
            message = f"{len(capsules)} nodes refused the row, and a file holds one"
            raise ProjectError.of("T0806", message, f"choose one, such as {row}:{nodes[:8]}")
        capsules[0].save(save)
        say(f"wrote {save}")
        return
    if pdb:
        from ..builder.debugger import debug  # noqa: PLC0415

        for capsule in capsules:
            debug(capsule)
        return
    replays = [run(capsule) for capsule in capsules]
    if as_json:
        print_json([_describe_replay(replay) for replay in replays])
    else:
        for one in replays:
            say(str(one))
    if any(one.outcome is not Outcome.WORKS for one in replays):
        raise typer.Exit(1)


def _capsules(location: str, row: str | None) -> list[Capsule]:
    from ...storage.ledger import find_bad_rows  # noqa: PLC0415
    from ..builder.capsule import Capsule  # noqa: PLC0415

    if row is None and not is_store(location):
        return [Capsule.load(Path(location))]
    if row is None:
        message = f"{location} is a store: which of its rows is to be tried again?"
        raise ProjectError.of("T0806", message, "`taskloom ledger` lists their ids")
    opened = open_store(location)
    return [Capsule.of(opened, bad) for bad in find_bad_rows(opened, row)]


def _describe_replay(replay: Any) -> dict[str, Any]:
    return {
        "row": replay.capsule.problem.row,
        "outcome": replay.outcome.name.lower(),
        "was": replay.capsule.problem.to_dict(),
        "is": None if replay.problem is None else replay.problem.to_dict(),
        "changed": list(replay.changed),
    }


def _column_keys(location: str) -> set[str] | None:
    """Return the ids of the columns that a project needs; None for a store, where all count."""
    if is_store(location):
        return None
    loaded = load(Path(location))
    from ..viewer.inspection import open_plan  # noqa: PLC0415 - it imports torch

    planned = open_plan(loaded.mixture, loaded.open_store(), model=loaded.model)
    return {value.column_id for value in planned.cut.stored}
