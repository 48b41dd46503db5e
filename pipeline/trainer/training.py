"""Training: one model on a mixture, resumable at every checkpoint to the bit.

A run is a directory: ``log.jsonl`` says how it goes, ``measures.json`` what a few steps cost, each ``step-…``
is a checkpoint. Training into a directory again goes on from its last checkpoint with the same parameters,
optimizer, random numbers and rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...graph.errors import Problem, TrainingError, suggest
from ...ops.device.config import ModelConfig
from ...storage.checkpoint import latest_checkpoint, read_checkpoint
from ...storage.files import local_path
from ...storage.loader import Loader
from ...storage.pack import Pack
from ...storage.store import Store
from ..answerer.inference import Model
from ..loader.stream import Stream, open_stream
from ..model.importing import take_over
from ..model.record import refuse_other_run, run_capacity, run_record, used_artifacts
from ..progress import Shown, open_progress
from ..settings import TrainConfig
from ..task import Mixture, Task, as_mixture
from .blame import NAME, find_documents
from .interrupt import deferred_interrupts
from .learner import Learner, own_torch
from .ranks import Ranks, choose_own_device, join_ranks
from .run_log import open_log
from .saving import Saver, fetch_checkpoint
from .step_meter import StepMeter, timed
from .watch import PATIENCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run.

    Attributes:
        path: Its directory.
        step: Steps that it has taken.
        model: The model it has come to.
        header: What it learns from, in sentences.
        rank: Number of this process among those that trained it; the first, 0, speaks for all.
    """

    path: Path
    step: int
    model: Model
    header: tuple[str, ...]
    rank: int = 0


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
    """Train one model on ``mixture``; started by a launcher of several processes, together with the others.

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
        TrainingError: A setting is unknown or out of range, the loss is no longer a number, or another rank of
            the run is gone.
        KeyboardInterrupt: The run was interrupted; it was saved first.
    """
    config = _configure(config or TrainConfig(), settings)
    mixture = as_mixture(mixture)
    store = store if isinstance(store, Store) else Store.open(store)
    device = choose_own_device(config.device)
    with (
        join_ranks(config, device) as ranks,
        own_torch(config, device),
        open_progress(shown=progress and ranks.is_first) as shown,
    ):
        ranks.refuse_uneven(config.packs_per_step)
        path = local_path(out)
        fetch_checkpoint(path, config, ranks)
        capacity = run_capacity(path)
        stream = open_stream(mixture, store, model or ModelConfig(), config, capacity)
        learner = Learner.make(stream.plan, config, device, ranks)
        saver = Saver(path, learner, config)
        run = _Run(path, mixture, stream, run_record(mixture, stream), learner, saver, shown)
        loader = run.begin()
        sizes = learner.program.num_parameters
        for line in (header := stream.header(loader, sizes, learner.remark)):
            shown.say(line)
        with loader:
            run.go(loader, min(config.steps, config.steps if stop_at is None else stop_at))
        come_to = run.model()
    return Run(
        path=run.path,
        step=learner.step,
        model=come_to,
        header=tuple(header),
        rank=ranks.rank,
    )


@dataclass(slots=True)
class _Run:
    """A run, its directory, and where it is shown."""

    path: Path
    mixture: Mixture
    stream: Stream
    record: Mapping[str, Any]
    learner: Learner
    saver: Saver
    shown: Shown

    @property
    def ranks(self) -> Ranks:
        """Who takes part in it."""
        return self.learner.ranks

    def begin(self) -> Loader:
        """Go to the last checkpoint, if there is one, and return the loader that goes on from there.

        Raises:
            CheckpointError: The directory holds another run, or a damaged one.
        """
        loader = self._open_loader()
        checkpoint = latest_checkpoint(self.path)
        if checkpoint is None:
            self._begin_anew()
            return loader
        saved = read_checkpoint(checkpoint, with_training=True)
        refuse_other_run(self.path, saved.record, {**self.record, "loader": loader.state()})
        self.learner.restore(saved)
        if self.ranks.is_first:
            (self.path / NAME).unlink(missing_ok=True)
        return self._open_loader(saved.record["loader"])

    def _open_loader(self, state: Mapping[str, Any] | None = None) -> Loader:
        """Return a loader of this rank's share, which begins, or goes on at ``state``."""
        return self.stream.loader(state, rank=self.ranks.rank, num_ranks=self.ranks.number)

    def _begin_anew(self) -> None:
        """Take over the weights that the settings name, and say what they lack."""
        weights = self.stream.config.weights
        if not weights:
            return
        whole = self.learner.whole_program()
        taken = take_over(whole, self.learner.plan.vocabulary, local_path(weights))
        self.learner.adopt(whole.state_dict(), weights)
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
            open_log(self.path, learner.step, is_kept=self.ranks.is_first) as log,
            self.shown.task("train", total=last, done=learner.step) as bar,
        ):
            steps = timed(loader)
            meter = StepMeter.within(self.stream, learner, loader, last)
            checked, recording = (learner.step, loader.state()), ""
            while learner.step < last:
                is_stopped, step_waited_s = self._take(steps, meter, interrupted)
                waited_s += step_waited_s
                if (told := learner.recording) != recording:
                    self.shown.say(recording := told)
                bar.advance()
                is_last = is_stopped or learner.step == last
                is_saved = is_last or learner.step % config.checkpoint_every == 0
                is_logged = learner.step == config.steps or learner.step % config.log_every == 0
                self._enter("telling of the steps", PATIENCE_S, is_waiting=True)
                if is_logged or is_saved:
                    self._refuse_no_number(checked)
                    checked = learner.step, loader.state()
                if is_logged:
                    line = learner.measure(self.stream.losses, waited_s=waited_s)
                    log.write(line)
                    bar.note(f"loss {line['loss']:.3f}")
                    waited_s = 0.0
                if is_saved:
                    self._save(loader, is_last=is_last)
                if is_stopped:
                    self.shown.say(f"interrupted, and saved at step {learner.step:,}")
                    raise KeyboardInterrupt

    def _take(
        self,
        steps: Iterator[tuple[Sequence[Pack], float]],
        meter: StepMeter,
        interrupted: Callable[[], bool],
    ) -> tuple[bool, float]:
        """Take a step; return whether somebody has asked to stop, and the seconds it waited for its packs."""
        learner = self.learner
        self._enter("waiting for packs", self.stream.config.loader_timeout_s)
        packs, waited_s = next(steps)
        with meter.around(packs, waited_s):
            is_stopped = learner.take(packs, is_stopping=interrupted())
        if meter.is_full:
            if self.ranks.is_first:
                meter.result().write(self.path)
            # Not before: steps are measured as they come, and need the memory that a recording keeps.
            learner.record()
        # Ranks have agreed before the step on what each of them knew then. Alone, the last moment counts; it is
        # asked once a step, or an interrupt might go by unsaved.
        return (interrupted() if self.ranks.number == 1 else is_stopped), waited_s

    def _save(self, loader: Loader, *, is_last: bool) -> None:
        record = {**self.record, "loader": loader.state(), "step": self.learner.step}
        self.saver.save(record, used_artifacts(self.stream))
        if is_last:
            self.saver.finish()

    def _enter(self, doing: str, limit_s: float, *, is_waiting: bool = False) -> None:
        watch = self.ranks.watch
        watch.enter(doing, step=self.learner.step + 1, limit_s=limit_s, is_waiting=is_waiting)

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
        self.saver.finish()
        self.ranks.meet()  # all have found the same; who ends first ends the run
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
            self.learner.whole_program(),
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
