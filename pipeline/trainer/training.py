"""Training: one model on a mixture, resumable at every checkpoint to the bit.

A run is a directory: ``log.jsonl`` says how it goes, ``measures.json`` what a few steps cost, each ``step-…``
is a checkpoint. Training into a directory again goes on from its last checkpoint with the same parameters,
optimizer, random numbers and rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...graph.errors import Problem, TrainingError, suggest
from ...ops.device.config import ModelConfig
from ...storage.checkpoint import keep_last, latest_checkpoint, read_checkpoint
from ...storage.files import local_path
from ...storage.loader import Loader
from ...storage.store import Store
from ..answerer.inference import Model
from ..loader.stream import Stream, open_stream
from ..model.program import choose_device
from ..model.record import refuse_other_run, run_capacity, run_record, used_artifacts
from ..progress import Shown, open_progress
from ..settings import TrainConfig
from ..task import Mixture, Task, as_mixture
from .blame import NAME, find_documents
from .interrupt import deferred_interrupts
from .learner import Learner, own_torch
from .recipe import tell_costs, tell_recipe
from .run_log import open_log
from .step_meter import StepMeter, timed


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
        out: Directory of the run. One that holds an unfinished run of the same settings is gone on with, also
            where weights are others, or tasks more or fewer: then every task goes on with the rows it has not
            seen.
        model: Sizes of the model.
        config: Settings of the run.
        stop_at: Stop after this step, as if interrupted.
        progress: Whether to show how far the run has come.
        settings: Fields of `TrainConfig` to set, such as ``steps=300``.

    Raises:
        StoreError: Some task is not built, or was built otherwise than it stands now; or ``out`` is a URL.
        LoaderError: Some task has no training rows.
        CheckpointError: ``out`` holds a run of other tasks or settings.
        TrainingError: A setting is unknown or out of range, or the loss is no longer a number.
        KeyboardInterrupt: The run was interrupted; it was saved first.
    """
    config = _configure(config or TrainConfig(), settings)
    mixture = as_mixture(mixture)
    store = store if isinstance(store, Store) else Store.open(store)
    device = choose_device(config.device)
    with own_torch(config, device), open_progress(shown=progress) as shown:
        capacity = run_capacity(Path(out))
        stream = open_stream(mixture, store, model or ModelConfig(), config, capacity)
        learner = Learner.make(stream.plan, config, device)
        run = _Run(local_path(out), mixture, stream, run_record(mixture, stream), learner, shown)
        loader = run.begin()
        sizes = learner.program.num_parameters
        header = [*stream.header(loader, sizes, learner.remark), *tell_recipe(learner)]
        for line in header:
            shown.say(line)
        with loader:
            run.go(loader, min(config.steps, config.steps if stop_at is None else stop_at))
    return Run(path=run.path, step=learner.step, model=run.model(), header=tuple(header))


@dataclass(slots=True)
class _Run:
    """A run, its directory, and where it is shown."""

    path: Path
    mixture: Mixture
    stream: Stream
    record: Mapping[str, Any]
    learner: Learner
    shown: Shown

    def begin(self) -> Loader:
        """Go to the last checkpoint, if there is one, and return the loader that goes on from there.

        Raises:
            CheckpointError: The directory holds another run, or a damaged one.
        """
        loader = self.stream.loader()
        checkpoint = latest_checkpoint(self.path)
        if checkpoint is None:
            self._begin_anew()
            return loader
        saved = read_checkpoint(checkpoint, with_training=True)
        refuse_other_run(self.path, saved.record, {**self.record, "loader": loader.state()})
        self.learner.restore(saved)
        (self.path / NAME).unlink(missing_ok=True)
        return self.stream.loader(saved.record["loader"])

    def _begin_anew(self) -> None:
        """Take over the weights that the settings name, and say what they lack."""
        weights = self.stream.config.weights
        if not weights:
            return
        taken = self.learner.begin_with(local_path(weights), used_artifacts(self.stream))
        self.shown.say(
            f"weights     {weights}: {len(taken.names)} tensors, {taken.new_ids} ids are new"
        )
        for name in taken.missing:
            self.shown.say(f"  begins anew: {name}")

    def go(self, loader: Loader, last: int) -> None:
        """Take steps until ``last``, writing the log and checkpoints."""
        learner, config, waited_s = self.learner, self.stream.config, 0.0
        with (
            deferred_interrupts() as interrupted,
            open_log(self.path, learner.step) as log,
            self.shown.task("train", total=last, done=learner.step) as bar,
        ):
            steps = timed(loader)
            meter = StepMeter.within(self.stream, learner, loader, last)
            checked, recording = (learner.step, loader.state()), ""
            while learner.step < last:
                packs, step_waited_s = next(steps)
                waited_s += step_waited_s
                with meter.around(packs, step_waited_s):
                    learner.take(packs)
                if meter.is_full:
                    self._end_measuring(meter)
                if (told := learner.recording) != recording:
                    self.shown.say(recording := told)
                bar.advance()
                is_stopped = interrupted()  # asked once, or an interrupt might go by unsaved
                is_last = is_stopped or learner.step == last
                is_saved = is_last or learner.step % config.checkpoint_every == 0
                is_logged = learner.step == config.steps or learner.step % config.log_every == 0
                if is_logged or is_saved:
                    self._refuse_no_number(checked)
                    checked = learner.step, loader.state()
                if is_logged:
                    line = learner.measure(self.stream.losses, waited_s=waited_s)
                    log.write(line)
                    bar.note(f"loss {line['loss']:.3f}")
                    waited_s = 0.0
                if is_saved:
                    self._save(loader)
                if is_stopped:
                    self.shown.say(f"interrupted, and saved at step {learner.step:,}")
                    raise KeyboardInterrupt

    def _end_measuring(self, meter: StepMeter) -> None:
        meter.result().write(self.path)
        for line in tell_costs(self.learner, meter.taken_s):
            self.shown.say(line)
        # Not before: steps are measured as they come, and need the memory that a recording keeps.
        self.learner.record()

    def _save(self, loader: Loader) -> None:
        record = {**self.record, "loader": loader.state(), "step": self.learner.step}
        self.learner.save(self.path, record, used_artifacts(self.stream))
        keep_last(self.path, self.stream.config.keep_checkpoints)

    def _refuse_no_number(self, checked: tuple[int, Mapping[str, Any]]) -> None:
        """Raise if some number is no finite one, as all were at the step and loader state ``checked``."""
        if not (trouble := self.learner.trouble(self.stream.losses)):
            return
        step, told = self.learner.step, ""
        if self.learner.sound_step < step:
            num_steps = self.learner.sound_step + 1 - checked[0]
            blamed = find_documents(self.stream, self.learner, checked[1], num_steps)
            step, told = blamed.step, f"{blamed.tell(blamed.write(self.path, trouble))}\n"
        message = f"{trouble} is no longer a finite number at step {step:,}"
        good = latest_checkpoint(self.path)
        saved = "no checkpoint was written before" if good is None else f"{good} is still good"
        help_ = f"{told}{saved}\nlower learning_rate, or clip, and train into another directory"
        raise TrainingError.of("T0731", message, help_)

    def model(self) -> Model:
        """Return what the run has come to, as a model."""
        model = Model.make(
            replace(
                self.mixture,
                parts=[Task(t.name, t.instruction) for t in self.mixture.tasks],
                weights=None,
            ),
            self.stream.model,
            self.stream.pinned,
            used_artifacts(self.stream),
            self.learner.result,
        )
        model.program.to(self.learner.device).eval()
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
