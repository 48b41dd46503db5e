"""Looking at a plan: what it computes, what a store holds of it, and why something is not there.

A column is *cached* when the store has all partitions of it. One that is not is *stale* when the task was
built before and the column was computed otherwise, and *missing* when it never was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...graph.node import NodeId
from ...graph.passes.history import History, make_history
from ...graph.preview import PreviewView
from ...graph.view import State, Status, View, make_view
from ...ops.device.config import ModelConfig
from ...storage.store import Store
from ..builder.dataset import artifact_loader, pinned_artifacts
from ..planner.document import column_dtypes
from ..planner.planning import Mode, Plan, plan
from ..planner.weighing import tell_stored
from ..task import Mixture, Task
from .analysis import Analysis
from .reasons import column_whys, state_of
from .source_change import seen_in


def open_plan(
    tasks: Mixture | Task | Sequence[Task],
    store: str | Path | Store | None,
    mode: Mode = "train",
    model: ModelConfig | None = None,
) -> Plan:
    """Plan ``tasks`` with whatever is known: sources and artifacts of ``store``, if there is one.

    Raises:
        StoreError: There is no store at the path.
        TaskloomError: The tasks cannot be planned.
    """
    if store is None:
        return plan(tasks, mode, model=model)
    store = store if isinstance(store, Store) else Store.open(store)
    columns = {name: column_dtypes(store.source(name).schema) for name in store.sources()}
    return plan(
        tasks,
        mode,
        model=model,
        columns=columns,
        pinned=pinned_artifacts(store),
        load=artifact_loader(store),
    )


def view_plan(
    planned: Plan,
    *,
    title: str,
    store: Store | None = None,
    project: str = "",
    analysis: Analysis | None = None,
    previews: Mapping[NodeId, Sequence[PreviewView]] | None = None,
) -> View:
    """Return what every view of ``planned`` shows, with what ``store`` holds of it.

    ``project`` is what the command line takes to make the same plan, ``analysis`` what it has cost,
    ``previews`` what its nodes made of some rows.

    For inference nothing is stored: rows come from the caller and are computed as they come.
    """
    is_stored = planned.mode == "train"
    return make_view(
        planned.graph,
        title=title,
        stages=planned.cut.stages,
        stored=tell_stored(planned, store) if is_stored else {},
        segments=planned.segments if is_stored else (),
        states=column_states(planned, store) if is_stored and store is not None else None,
        catalogue=planned.catalogue,
        project=project,
        measures=None if analysis is None else analysis.measures,
        previews=previews,
        remarks=[
            *(problem.message for problem in planned.warnings),
            *(() if analysis is None else analysis.remarks),
        ],
    )


def view_history(planned: Plan, *, title: str, store: Store | None = None) -> History:
    """Return what each pass has done to the graph of ``planned``, and where it was cut."""
    return make_history(
        planned.steps,
        planned.cut,
        planned.segments,
        title=title,
        reasons=tell_stored(planned, store),
    )


def column_states(planned: Plan, store: Store) -> dict[NodeId, State]:
    """Return what ``store`` holds of every stored node, and why; artifacts to be fitted are missing.

    The store is asked, and nothing else: rows that changed in a source's files since the last build are not
    noticed here, but by `why`.
    """
    states: dict[NodeId, State] = {
        value.node: State(Status.MISSING, "a build fits it") for value in planned.fits.values()
    }
    seen = seen_in(store)
    readers = planned.sharing().items()
    nodes = {(task, value.column_id): value.node for value, tasks in readers for task in tasks}
    for column in column_whys(planned, store, planned.tasks, seen, with_libraries=False):
        node = nodes[column.task, column.column]
        if node not in states or states[node].status is Status.MISSING:
            states[node] = state_of(column)
    return states
