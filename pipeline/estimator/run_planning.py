"""Planning a run: from a project's parts to what it will take, or why it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from ...graph.errors import StoreError
from ...ops.device.config import ModelConfig
from ...storage.store import Store
from ..loader.stream import open_stream
from ..model.hardware import hardware_of
from ..settings import TrainConfig
from ..task import Mixture
from .alternatives import refuse_misfit, try_changes
from .cluster import Cluster
from .run_plan import Case, RunPlan
from .sampled import sample_packs

Precision: TypeAlias = Literal["float32", "bfloat16"]
Sharding: TypeAlias = Literal["none", "full"]


def plan_run(
    mixture: Mixture,
    store: Store | None,
    cluster: Cluster,
    *,
    model: ModelConfig,
    config: TrainConfig,
    precision: Precision | None = None,
    sharding: Sharding | None = None,
) -> RunPlan:
    """Plan a run of ``mixture`` as ``store`` holds it.

    Args:
        mixture: The tasks.
        store: Where they are built; None if there is none yet.
        cluster: What it will be trained on.
        model: Sizes of the model.
        config: Settings of the run.
        precision: What is computed in, instead of what the settings say.
        sharding: ``"full"`` if ranks share what is learned, instead of what the settings say.

    Raises:
        StoreError: The tasks are not built (T0511).
        TrainingError: No such hardware is known (T0830), or a rank has not memory enough (T0831).
    """
    hardware_of(cluster.kind)
    if store is None:
        message = "how long documents are is not known before the tasks are built"
        help_ = "taskloom build PROJECT first; a part of a large source says nearly as much"
        raise StoreError.of("T0511", message, help_)
    config = replace(
        config, precision=precision or config.precision, sharding=sharding or config.sharding
    )
    stream = open_stream(mixture, store, model, config)
    case = Case(stream=stream, sampled=sample_packs(stream), cluster=cluster)
    planned = RunPlan.of(case)
    refuse_misfit(planned, case)
    return replace(planned, changes=try_changes(planned, case))
