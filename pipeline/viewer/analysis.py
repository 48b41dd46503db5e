"""What a plan has really cost: in the builds that computed its columns, and in real steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ...graph.errors import TaskloomError
from ...graph.measure import Measure
from ...graph.node import Node, NodeId
from ...graph.passes.cut import Stage
from ...ops.device.config import ModelConfig
from ...storage.store import Store
from ..builder.measuring import build_measures
from ..planner.planning import Plan
from ..settings import TrainConfig
from ..task import Mixture
from ..trainer.run_measures import StepMeasures
from ..trainer.step_meter import measure_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Figures of the nodes of a plan.

    Attributes:
        measures: The figures.
        remarks: Where they come from, in sentences.
    """

    measures: Mapping[NodeId, Measure]
    remarks: tuple[str, ...]


def analyze(
    planned: Plan,
    mixture: Mixture,
    store: Store,
    *,
    run: Path,
    model: ModelConfig | None = None,
    config: TrainConfig | None = None,
) -> Analysis:
    """Return what the nodes of ``planned`` have cost.

    What ran offline has been measured by its build. Loader and program have been measured by the run in
    directory ``run``, if it is one of this plan; if not, a few steps are taken here and now, with a fresh model
    that is thrown away.

    Args:
        planned: The plan of ``mixture``, as ``store`` holds it.
        mixture: The tasks.
        store: The store.
        run: Where a run may be.
        model: Sizes of the model.
        config: Settings of the run.
    """
    model = model or ModelConfig()
    built = build_measures(planned.graph, store)
    steps, remark = _measure_training(planned, mixture, store, run, model, config or TrainConfig())
    nodes = {node.address: node.id for node in planned.graph if _is_trained(planned, node)}
    measured = {} if steps is None else steps.measures
    taken = {nodes[address]: m for address, m in measured.items() if address in nodes}
    host = "as they were built last" if built else "not measured; the next build measures"
    return Analysis(measures=built | taken, remarks=(f"columns: {host}", remark))


def _measure_training(
    planned: Plan,
    mixture: Mixture,
    store: Store,
    run: Path,
    model: ModelConfig,
    config: TrainConfig,
) -> tuple[StepMeasures | None, str]:
    """Return what steps cost, and which steps these were."""
    kept = StepMeasures.read(run)
    nodes = {node.address for node in planned.graph if _is_trained(planned, node)}
    if kept is not None and nodes <= kept.measures.keys() and kept.model == asdict(model):
        steps = f"steps {kept.first:,} to {kept.first + kept.steps - 1:,}"
        return kept, f"training: {steps} of {run}, {kept}"
    try:
        taken = measure_steps(mixture, store, model, config)
    except TaskloomError as error:
        return None, f"training: not measured; {error.problems[0].message}"
    return taken, f"training: {taken.steps} steps taken just now with a fresh model, {taken}"


def _is_trained(planned: Plan, node: Node) -> bool:
    return planned.cut.stages[node.id] is not Stage.OFFLINE
