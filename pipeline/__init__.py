"""The front door: tasks and mixtures, build, train, evaluate, infer, and the command line.

Names are imported when they are first used: a worker process that only decodes images must not pay for
torch. No module is called like a function it defines, which would hide the function.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..ops.device.decode.search import Search
    from .answerer.evaluation import Evaluation, evaluate
    from .answerer.inference import Model
    from .answerer.packaging import Package, export_model
    from .answerer.prediction import Prediction
    from .builder.building import build
    from .builder.dask_graph import to_dask
    from .builder.refitting import FitReport, fit
    from .builder.report import BuildReport
    from .exporter.exporting import ExportReport, export
    from .loader.batching import open_batches
    from .mixing import Schedule, Temperature, Tokens, UniMax
    from .planner.planning import Plan, plan
    from .sql import Sql
    from .task import Mixture, Source, Task
    from .trainer.listener.listening import Listener
    from .trainer.training import Run, train
    from .viewer.inspection import open_plan
    from .viewer.reasons import Why, why

__all__ = [
    "BuildReport",
    "Evaluation",
    "ExportReport",
    "FitReport",
    "Listener",
    "Mixture",
    "Model",
    "Package",
    "Plan",
    "Prediction",
    "Run",
    "Schedule",
    "Search",
    "Source",
    "Sql",
    "Task",
    "Temperature",
    "Tokens",
    "UniMax",
    "Why",
    "build",
    "evaluate",
    "export",
    "export_model",
    "fit",
    "open_batches",
    "open_plan",
    "plan",
    "to_dask",
    "train",
    "why",
]

_HOMES = {
    "BuildReport": "builder.report",
    "Evaluation": "answerer.evaluation",
    "ExportReport": "exporter.exporting",
    "FitReport": "builder.refitting",
    "Listener": "trainer.listener.listening",
    "Mixture": "task",
    "Model": "answerer.inference",
    "Package": "answerer.packaging",
    "Plan": "planner.planning",
    "Prediction": "answerer.prediction",
    "Run": "trainer.training",
    "Schedule": "mixing",
    "Search": ".ops.device.decode.search",
    "Source": "task",
    "Sql": "sql",
    "Task": "task",
    "Temperature": "mixing",
    "Tokens": "mixing",
    "UniMax": "mixing",
    "Why": "viewer.reasons",
    "build": "builder.building",
    "evaluate": "answerer.evaluation",
    "export": "exporter.exporting",
    "export_model": "answerer.packaging",
    "fit": "builder.refitting",
    "open_batches": "loader.batching",
    "open_plan": "viewer.inspection",
    "plan": "planner.planning",
    "to_dask": "builder.dask_graph",
    "train": "trainer.training",
    "why": "viewer.reasons",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
