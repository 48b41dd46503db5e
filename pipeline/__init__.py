"""The front door: tasks and mixtures, build, train, evaluate, infer, and the command line.

Names are imported when they are first used: a worker process that only decodes images must not pay for
torch. No module is called like a function it defines, which would hide the function.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..ops.device.decode.search import Search
    from .batching import open_batches
    from .building import build
    from .dask_graph import to_dask
    from .evaluation import Evaluation, evaluate
    from .exporting import ExportReport, export
    from .inference import Model
    from .inspection import open_plan
    from .mixing import Schedule, Temperature, Tokens, UniMax
    from .packaging import Package, export_model
    from .planning import Plan, plan
    from .prediction import Prediction
    from .reasons import Why, why
    from .refitting import FitReport, fit
    from .report import BuildReport
    from .sql import Sql
    from .task import Mixture, Source, Task
    from .training import Run, train

__all__ = [
    "BuildReport",
    "Evaluation",
    "ExportReport",
    "FitReport",
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
    "BuildReport": "report",
    "Evaluation": "evaluation",
    "ExportReport": "exporting",
    "FitReport": "refitting",
    "Mixture": "task",
    "Model": "inference",
    "Package": "packaging",
    "Plan": "planning",
    "Prediction": "prediction",
    "Run": "training",
    "Schedule": "mixing",
    "Search": ".ops.device.decode.search",
    "Source": "task",
    "Sql": "sql",
    "Task": "task",
    "Temperature": "mixing",
    "Tokens": "mixing",
    "UniMax": "mixing",
    "Why": "reasons",
    "build": "building",
    "evaluate": "evaluation",
    "export": "exporting",
    "export_model": "packaging",
    "fit": "refitting",
    "open_batches": "batching",
    "open_plan": "inspection",
    "plan": "planning",
    "to_dask": "dask_graph",
    "train": "training",
    "why": "reasons",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
