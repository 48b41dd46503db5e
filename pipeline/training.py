"""Training: one model on a mixture, resumable at every checkpoint to the bit.

A run is a directory: ``log.jsonl`` says how it goes, each ``step-…`` is a checkpoint. Training into a directory
again goes on from its last checkpoint with the same parameters, optimizer, random numbers and rows.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..graph.errors import CheckpointError, Problem, TrainingError, suggest
from ..ops.device.config import ModelConfig
from ..storage.checkpoint import keep_last, latest_checkpoint, read_checkpoint
from ..storage.loader import Loader
from ..storage.store import Store
from .inference import Model
from .interrupt import deferred_interrupts
from .learner import Learner
from .progress import open_progress
from .record import model_record, used_artifacts
from .settings import TrainConfig
from .stream import Stream, open_stream
from .task import Mixture, Task, as_mixture


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run.

    Attributes:
        path: Its directory.
        step: Steps that it has taken.
        model: The model it has come to.
        header: What it learns from, in sentences.
    """

    path: Path
    step: int
    model: Model
    header: tuple[str, ...]


def train(
    mixture: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    *,
    out: str | Path,
    model: ModelConfig | None = None,
    config: TrainConfig | None = None,
    stop_at: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train one model on ``mixture``.

    Args:
        mixture: The tasks, as they were built.
        store: The store they were built into; nothing else is read.
        out: Directory of the run. One that holds an unfinished run of the same settings is gone on with.
        model: Sizes of the model.
        config: Settings of the run.
        stop_at: Stop after this step, as if interrupted.
        progress: Whether to show how far the run has come.
        settings: Fields of `TrainConfig` to set, such as ``steps=300``.

    Raises:
        StoreError: Some task is not built, or was built otherwise than it stands now.
        CheckpointError: ``out`` holds a run of other tasks or settings.
        TrainingError: A setting is unknown or out of range, or the loss is no longer a number.
        KeyboardInterrupt: The run was interrupted; it was saved first.
    """
    config = _configure(config or TrainConfig(), settings)
    mixture = as_mixture(mixture)
    store = store if isinstance(store, Store) else Store.open(store)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _choose_device(config.device)
    torch.manual_seed(config.seed)
    run = _Run(
        Path(out), mixture, config, open_stream(mixture, store, model or ModelConfig(), config)
    )
    learner = Learner.make(run.stream.plan, config, device)
    checkpoint = latest_checkpoint(run.path)
    state: Mapping[str, Any] | None = None
    if checkpoint is not None:
        saved = read_checkpoint(checkpoint, with_training=True)
        run.refuse_other(saved.record)
        learner.restore(saved)
        state = saved.record["loader"]
    header = run.stream.header(learner, config)
    last = min(config.steps, config.steps if stop_at is None else stop_at)
    with run.stream.loader(state) as loader, open_progress(shown=progress) as shown:
        for line in header:
            shown.say(line)
        run.go(learner, loader, last, shown)
    return Run(
        path=run.path,
        step=learner.step,
        model=run.model(learner),
        header=tuple(header),
    )


@dataclass(slots=True)
class _Run:
    """A run's directory and what it is a run of."""

    path: Path
    mixture: Mixture
    config: TrainConfig
    stream: Stream
    _waited_s: float = field(default=0.0)

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change between two parts of a run."""
        free = {"log_every", "checkpoint_every", "keep_checkpoints", "threads", "device", "compile"}
        settings = {k: v for k, v in asdict(self.config).items() if k not in free}
        return {"plan": self.stream.digest, "settings": settings}

    def refuse_other(self, record: Mapping[str, Any]) -> None:
        """Check that a checkpoint's ``record`` is of this run.

        Raises:
            CheckpointError: It is of another; every difference is named.
        """
        theirs, ours = record["run"], self.identity
        told = [
            f"{name} was {theirs['settings'].get(name)} in the run, is {value} now"
            for name, value in ours["settings"].items()
            if theirs["settings"].get(name) != value
        ]
        if theirs["plan"] != ours["plan"]:
            told += _tell_plans(record, model_record(self.mixture, self.stream))
        if told:
            help_ = "train into another directory, or with what this one was begun with"
            problems = (
                Problem("T0722", f"{self.path} holds another run: {t}", help_) for t in told
            )
            raise CheckpointError(*problems)

    def go(self, learner: Learner, loader: Loader, last: int, shown: Any) -> None:
        """Take steps until ``last``, writing the log and checkpoints."""
        self.path.mkdir(parents=True, exist_ok=True)
        start = learner.step
        with (
            deferred_interrupts() as interrupted,
            (self.path / "log.jsonl").open("a", encoding="utf-8") as log,
            shown.task("train", total=last, done=start) as bar,
        ):
            packs = iter(loader)
            while learner.step < last:
                began = time.perf_counter()
                step = next(packs)
                self._waited_s += time.perf_counter() - began
                learner.take(step)
                bar.advance()
                is_last = learner.step == last or interrupted()
                if learner.step % self.config.log_every == 0 or is_last:
                    line = learner.measure(self.stream.tasks, waited_s=self._waited_s)
                    self._waited_s = 0.0
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                    bar.note(f"loss {line['loss']:.3f}")
                    self._refuse_no_number(line)
                if learner.step % self.config.checkpoint_every == 0 or is_last:
                    self._save(learner, loader)
                if interrupted():
                    raise KeyboardInterrupt

    def _save(self, learner: Learner, loader: Loader) -> None:
        record = model_record(self.mixture, self.stream)
        record |= {"run": self.identity, "loader": loader.state(), "step": learner.step}
        learner.save(self.path, record, used_artifacts(self.stream))
        keep_last(self.path, self.config.keep_checkpoints)

    def _refuse_no_number(self, line: Mapping[str, Any]) -> None:
        if line["loss"] != line["loss"]:
            bad = [task for task, sums in line["tasks"].items() if sums["loss"] != sums["loss"]]
            message = f"the loss is no longer a number at step {line['step']}"
            help_ = f"tasks: {', '.join(bad)}\nlower learning_rate; training goes on from the last checkpoint"
            raise TrainingError.of("T0731", message, help_)

    def model(self, learner: Learner) -> Model:
        """Return what the run has come to, as a model."""
        model = Model.make(
            replace(self.mixture, tasks=[Task(t.name, t.instruction) for t in self.mixture.tasks]),
            self.stream.model,
            self.stream.pinned,
            used_artifacts(self.stream),
            learner.program,
        )
        model.program.to(learner.device).eval()
        return model


def _configure(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    known = [f.name for f in dataclasses.fields(TrainConfig)]
    if unknown := [name for name in settings if name not in known]:
        problems = (
            Problem("T0732", f'train has no setting "{name}"', suggest(name, known))
            for name in unknown
        )
        raise TrainingError(*problems)
    return replace(config, **settings)


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        message = f'device "{name}" cannot be used: {str(error).splitlines()[0]}'
        raise TrainingError.of("T0733", message, 'use "cpu", or "auto"') from None
    return device


def _tell_plans(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Say in what two models' records differ."""
    told: list[str] = []
    for what in ("tasks", "pinned", "slots", "model"):
        was, now = theirs[what], ours[what]
        told += [
            f'{what} "{name}" was {was.get(name)}, is {now.get(name)}'
            for name in dict.fromkeys([*was, *now])
            if was.get(name) != now.get(name)
        ]
    return told or ["its columns were built by other versions of ops"]
