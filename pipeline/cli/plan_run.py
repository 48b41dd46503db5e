"""The verb that plans a run on devices that are not here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...graph.errors import ProjectError, suggest
from ..terminal import print_json, say
from .argument import Json, ProjectPath, load

_GIGABIT = 1e9 / 8


def plan_run(
    project: ProjectPath,
    *,
    kind: Annotated[
        str, typer.Option(help="What it runs on: h100, a100-80, … or cpu.", metavar="KIND")
    ],
    gpus: Annotated[int, typer.Option(min=1, help="Devices of each node.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes.")] = 1,
    precision: Annotated[
        str | None, typer.Option(help="float32, or bfloat16; the project's by default.")
    ] = None,
    sharding: Annotated[
        str | None, typer.Option(help="none, or full; the project's by default.")
    ] = None,
    network: Annotated[
        float, typer.Option(min=0.1, help="Gbit/s of each device between nodes.")
    ] = 400.0,
    as_json: Json = False,
) -> None:
    """Say what a run would take on other devices: memory, time, and what it would wait for first."""
    loaded = load(project)
    chosen: dict[str, Any] = {"precision": precision, "sharding": sharding}
    for name, choices in (("precision", ("float32", "bfloat16")), ("sharding", ("none", "full"))):
        if (value := chosen[name]) is not None and value not in choices:
            message = f'--{name} is {" or ".join(choices)}, got "{value}"'
            raise ProjectError.of("T0806", message, suggest(value, choices))
    from ..model.hardware import hardware_of  # noqa: PLC0415 - only this verb needs it

    hardware_of(kind)
    from ..estimator.cluster import Cluster  # noqa: PLC0415 - as above
    from ..estimator.run_planning import plan_run as run  # noqa: PLC0415 - it imports torch
    from ..estimator.wording import write_plan  # noqa: PLC0415

    cluster = Cluster(kind=kind, per_node=gpus, num_nodes=nodes, network=network * _GIGABIT)
    planned = run(
        loaded.mixture,
        loaded.find_store(),
        cluster,
        model=loaded.model,
        config=loaded.train,
        **chosen,
    )
    if as_json:
        print_json(planned.to_json())
    else:
        say(write_plan(planned))
