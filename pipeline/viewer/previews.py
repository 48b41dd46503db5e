"""Samples for views: what every node makes of the first rows of each task."""

from __future__ import annotations

from ...graph.node import NodeId
from ...graph.preview import PreviewView
from ...storage.store import Store
from ..planner.planning import Plan
from ..task import Mixture
from .pick import first_rows
from .trace import trace_row


def sample_previews(
    plan: Plan, mixture: Mixture, store: Store | None, number: int
) -> dict[NodeId, list[PreviewView]]:
    """Return, for each node, what it made of up to ``number`` rows; nothing for nodes that were not run.

    Rows come from the store where a task was built, and from its source otherwise; tasks without one give none.

    Raises:
        SourceError: The rows cannot be read.
        StoreError: A file of a source has changed since it was built.
    """
    found: dict[NodeId, dict[str, PreviewView]] = {}
    for task in mixture.tasks:
        if task.source is None:
            continue
        for picked in first_rows(task, store, number):
            trace = trace_row(plan, task.name, picked.table, row=picked.row)
            for step in trace.steps:
                known = found.setdefault(step.node.id, {})
                if step.preview is not None and len(known) < number:
                    known.setdefault(picked.row, step.preview)
    return {node: list(previews.values()) for node, previews in found.items()}
