"""Services that hear of runs: TensorBoard, Weights & Biases, MLflow, each an extra of its own.

A line of the log becomes numbers with names such as ``loss/digits``, the same in every service. A run that
goes on is gone on with there as well: who it is, a service keeps in the run's directory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from ....graph.errors import MissingExtraError
from .listening import Listener

_PLAIN: Final = ("loss", "gradient_norm", "rate")
_BY_TASK: Final = {
    "tasks": ("loss", "gradient_share"),
    "mixture": ("sample_share", "token_share", "epochs"),
}


def flatten(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of the log by names that services group by their first part."""
    found = {f"train/{name}": line[name] for name in _PLAIN if name in line}
    for part, names in _BY_TASK.items():
        for task, numbers in line.get(part, {}).items():
            found |= {f"{name}/{task}": numbers.get(name) for name in names}
    found |= {f"speed/{name}": value for name, value in line.get("speed", {}).items()}
    found |= {f"memory/{name}": value for name, value in line.get("memory", {}).items()}
    for task, numbers in line.get("evaluation", {}).get("tasks", {}).items():
        found |= {
            f"valid_{name}/{task}": numbers.get(name) for name in ("loss", "score", "corrected")
        }
    found |= {f"valid/{k}": v for k, v in line.get("evaluation", {}).get("mean", {}).items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def open_services(names: Sequence[str]) -> list[Listener]:
    """Return the listeners of the services ``names``.

    Raises:
        MissingExtraError: The library of one is not installed.
    """
    return [_SERVICES[name]() for name in names]


class TensorBoard(Listener):
    """Writes event files to ``tensorboard/`` in the run's directory."""

    def __init__(self) -> None:
        _require("tensorboard", "tensorboard")
        self._make: Any = _require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None

    def began(self, run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Begin a file; of steps that are taken again, earlier events are left out."""
        self._writer = self._make(str(run / "tensorboard"), purge_step=facts["step"] + 1)
        self._writer.add_text("header", "\n\n".join(header), facts["step"])

    def logged(self, line: Mapping[str, Any]) -> None:
        """Add its numbers."""
        for name, value in flatten(line).items():
            self._writer.add_scalar(name, value, line["step"])

    def evaluated(self, line: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """Add its numbers, and samples as text."""
        self.logged(line)
        self._writer.add_text("samples", "\n\n".join(_tell_samples(samples)), line["step"])

    def ended(self, outcome: str) -> None:
        """Close the file."""
        self._writer.add_text("outcome", outcome)
        self._writer.close()


class WandB(Listener):
    """Logs to Weights & Biases; project, key and mode are those of its environment variables."""

    def __init__(self) -> None:
        self._wandb = _require("wandb", "wandb")
        self._run: Any = None

    def began(self, run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Begin a run, or go on with it."""
        id_ = _recall(run / "wandb-id", partial(token_hex, 6))
        self._run = self._wandb.init(
            id=id_,
            resume="allow",
            dir=str(run),
            name=run.name,
            config=dict(facts),
            notes="\n".join(header),
        )

    def logged(self, line: Mapping[str, Any]) -> None:
        """Log its numbers."""
        self._run.log(flatten(line), step=line["step"])

    def evaluated(self, line: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """Log its numbers, and samples as a table."""
        names = ["task", "row", "prompt", "reference", "answer"]
        table = self._wandb.Table(
            columns=names, data=[[str(sample[name]) for name in names] for sample in samples]
        )
        self._run.log({**flatten(line), "samples": table}, step=line["step"])

    def ended(self, outcome: str) -> None:
        """End it, as failed unless it is done."""
        self._run.summary["outcome"] = outcome
        self._run.finish(exit_code=0 if outcome in _WELL else 1)


class MLflow(Listener):
    """Logs to MLflow; the server and the experiment are those of its environment variables."""

    def __init__(self) -> None:
        self._mlflow = _require("mlflow", "mlflow")
        self._id = ""

    def began(self, run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Begin a run, or go on with it."""
        client = self._client
        name = self._mlflow.environment_variables.MLFLOW_EXPERIMENT_NAME.get() or "taskloom"
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        make = partial(self._create, experiment_id, run.name, facts)
        self._id = _recall(run / "mlflow-id", make)
        client.set_tag(self._id, "mlflow.note.content", "\n\n".join(header))

    def logged(self, line: Mapping[str, Any]) -> None:
        """Log its numbers."""
        for name, value in flatten(line).items():
            self._client.log_metric(self._id, name, value, step=line["step"])

    def evaluated(self, line: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """Log its numbers, and samples as a file."""
        self.logged(line)
        self._client.log_text(
            self._id, "\n".join(_tell_samples(samples)), f"samples/{line['step']}.txt"
        )

    def ended(self, outcome: str) -> None:
        """End it, as failed unless it is done."""
        self._client.set_tag(self._id, "outcome", outcome)
        self._client.set_terminated(self._id, "FINISHED" if outcome in _WELL else "FAILED")

    def _create(self, experiment_id: str, name: str, facts: Mapping[str, Any]) -> str:
        """Create a run; what a run was begun with cannot be changed there, so it is told once."""
        id_ = self._client.create_run(experiment_id, run_name=name).info.run_id
        for group in ("settings", "model"):
            for key, value in facts.get(group, {}).items():
                self._client.log_param(id_, f"{group}.{key}", value)
        return id_

    @property
    def _client(self) -> Any:
        return self._mlflow.MlflowClient()


_SERVICES: Final = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
_WELL: Final = {"done", "stopped", "interrupted"}


def _require(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"log_to: {extra} needs the extra {extra}"
        raise MissingExtraError.of("T0901", message, f'pip install "taskloom[{extra}]"') from error


def _recall(path: Path, make: Callable[[], str]) -> str:
    """Return what ``path`` holds, or what is made and kept there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(), "utf-8")
    return path.read_text("utf-8")


def _tell_samples(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for sample in samples:
        asked = f"{sample['task']} {sample['row']}: {sample['prompt']}"
        yield f"{asked} → {sample['answer']} (right: {sample['reference']})"
