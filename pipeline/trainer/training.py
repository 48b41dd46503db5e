"""Training: one model on a mixture, resumable at every checkpoint to the bit.

A run is a directory: ``log.jsonl`` says how it goes, ``header.json`` what it learns from, ``measures.json``
what a few steps cost, ``samples/`` what the model answered, each ``step-…`` is a checkpoint. Training into a
directory again goes on from its last checkpoint with the same parameters, optimizer, random numbers and rows.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...graph.errors import Problem, TrainingError, suggest
from ...ops.device.config import ModelConfig
from ...storage.checkpoint import latest_checkpoint, read_checkpoint
from ...storage.files import local_path
from ...storage.loader import Loader
from ...storage.store import Store
from ..answerer.inference import Model
from ..loader.stream import Stream, open_stream
from ..model.cost import Cost
from ..model.program import Program, choose_device
from ..model.record import refuse_other_run, run_capacity, run_record, used_artifacts
from ..progress import Shown, open_progress
from ..settings import TrainConfig, profiled_steps, split_words
from ..task import Mixture, Task, as_mixture
from .blame import NAME as NOT_FINITE
from .blame import find_documents
from .evaluating import Evaluator, validated_tasks
from .interrupt import deferred_interrupts
from .learner import Learner, own_torch
from .listener.listening import Audience, Listener
from .listener.service import open_services
from .loss_watch import LossWatch
from .memory import NAME as OUT_OF_MEMORY
from .memory import told_evaluation_memory
from .profiling import NAME as TRACE
from .profiling import Tracer
from .ranks import Ranks, join_ranks
from .recipe import tell_recipe
from .referee import Referee
from .run_log import open_log, read_log, write_header
from .saving import Saver, fetch_checkpoint
from .step_part import EVALUATING, SAVING, TELLING
from .stepping import Stepper
from .telling import Teller
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
    listeners: Sequence[Listener] = (),
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
        listeners: Who else hears how it goes.
        settings: Fields of `TrainConfig` to set, such as ``steps=300``.

    Raises:
        StoreError: Some task is not built, or was built otherwise than it stands now; or ``out`` is a URL.
        LoaderError: Some task has no training rows.
        CheckpointError: ``out`` holds a run of other tasks or settings.
        TrainingError: A setting is unknown or out of range, the loss is no longer a number, the memory does
            not suffice, or another rank of the run is gone.
        MissingExtraError: A service that is to hear of it is not installed.
        KeyboardInterrupt: The run was interrupted; it was saved first.
    """
    config = _configure(config or TrainConfig(), settings)
    services = open_services(split_words(config.log_to))
    mixture = as_mixture(mixture)
    store = store if isinstance(store, Store) else Store.open(store)
    device = choose_device(config.device)
    with (
        join_ranks(config, device) as ranks,
        own_torch(config, device := ranks.device(device)),
        open_progress(shown=progress and ranks.is_first) as shown,
    ):
        ranks.refuse_uneven(config.packs_per_step)
        path = local_path(out)
        fetch_checkpoint(path, config, ranks)
        capacity = run_capacity(path)
        stream = open_stream(mixture, store, model or ModelConfig(), config, capacity)
        learner = Learner.make(stream.plan, config, device, ranks)
        saver = Saver(path, learner, config)
        run = _Run(
            path=path,
            mixture=mixture,
            stream=stream,
            record=run_record(mixture, stream),
            learner=learner,
            saver=saver,
            shown=shown,
            validated=validated_tasks(stream),
        )
        loader = run.begin()
        header = run.header(loader)
        for line in header:
            shown.say(line)
        last = min(config.steps, config.steps if stop_at is None else stop_at)
        is_done = learner.step >= last
        # Of a run that is only given back nobody hears, and one rank speaks for all.
        is_told = ranks.is_first and not is_done
        audience = Audience([*services, *listeners] if is_told else [])
        with loader, audience.until_the_end():
            if is_told:
                write_header(run.path, header, run.facts())
            audience.began(run.path, header, run.facts())
            run.go(loader, last, audience)
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
    """A run, its directory, where it is shown, and the tasks that can be evaluated."""

    path: Path
    mixture: Mixture
    stream: Stream
    record: Mapping[str, Any]
    learner: Learner
    saver: Saver
    shown: Shown
    validated: Sequence[str]
    evaluator: Evaluator | None = None

    @property
    def ranks(self) -> Ranks:
        """Who takes part in it."""
        return self.learner.ranks

    def header(self, loader: Loader) -> list[str]:
        """Return what it learns from and with, what that costs, and how it is evaluated, in sentences.

        Raises:
            TrainingError: It cannot be evaluated as the settings want it.
        """
        learner = self.learner
        seen = self.stream.header(loader, learner.program.num_parameters, learner.remark)
        evaluated = Referee.over(self.stream.config, self.validated, ()).remark
        cost = Cost.of(self.stream, loader).sentences()
        return [*seen, *tell_recipe(learner), *cost, evaluated]

    def facts(self) -> dict[str, Any]:
        """Return what listeners are told of it when it begins."""
        config, model = asdict(self.stream.config), asdict(self.stream.model)
        sizes = self.learner.program.num_parameters
        return {"step": self.learner.step, "settings": config, "model": model, "parameters": sizes}

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
            for name in (NOT_FINITE, OUT_OF_MEMORY):
                (self.path / name).unlink(missing_ok=True)
        return self._open_loader(saved.record["loader"])

    def _open_loader(self, state: Mapping[str, Any] | None = None) -> Loader:
        """Return a loader of this rank's share, which begins, or goes on at ``state``."""
        return self.stream.loader(state, rank=self.ranks.rank, num_ranks=self.ranks.number)

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

    def go(self, loader: Loader, last: int, audience: Audience) -> None:
        """Take steps until ``last``, writing the log and checkpoints, unless nothing gets better before."""
        learner, config, is_first = self.learner, self.stream.config, self.ranks.is_first
        traced = profiled_steps(config.profile) if is_first else None
        tracer = Tracer(traced, self.path / TRACE, learner.device)
        with (
            deferred_interrupts() as interrupted,
            open_log(self.path, learner.step, is_kept=is_first) as log,
            self.shown.task("train", total=last, done=learner.step) as bar,
            tracer.until_the_end(),
        ):
            lines = self._read_lines()
            watch = LossWatch.over(lines)
            teller = Teller(self.path, self.stream, learner, loader, log, audience, bar, watch)
            referee = Referee.over(config, self.validated, lines)
            stepper = Stepper(
                self.path, self.stream, learner, loader, teller, tracer, self.shown, last
            )
            checked = (learner.step, loader.state())
            while learner.step < last and not referee.is_over:
                is_stopped = stepper.take(interrupted)
                self._enter("telling of the steps", PATIENCE_S, is_waiting=True)
                is_logged = learner.step == config.steps or learner.step % config.log_every == 0
                is_due = not is_stopped and self._is_due(referee, teller)
                is_saved = self._is_saved(learner.step, last, is_stopped=is_stopped)
                if is_logged or is_due or is_saved:
                    with teller.clock.part(TELLING):
                        self._refuse_no_number(checked)
                        checked = learner.step, loader.state()
                if is_logged:
                    with teller.clock.part(TELLING):
                        teller.write_line()
                if is_due:
                    self._evaluate(teller, referee)
                if is_saved or referee.is_over:
                    is_last = is_stopped or referee.is_over or learner.step == last
                    with teller.clock.part(SAVING):
                        self._save(loader, is_last=is_last)
                    audience.saved(self.path, learner.step)
                if is_stopped:
                    self.shown.say(f"interrupted, and saved at step {learner.step:,}")
                    raise KeyboardInterrupt
            audience.ended("stopped" if referee.is_over else "done")

    def _read_lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log up to here, the same on all ranks."""
        lines = read_log(self.path) if self.ranks.is_first else []
        return lines if self.ranks.number == 1 else self.ranks.gather(lines)[0]

    def _is_saved(self, step: int, last: int, *, is_stopped: bool) -> bool:
        return is_stopped or step == last or step % self.stream.config.checkpoint_every == 0

    def _is_due(self, referee: Referee, teller: Teller) -> bool:
        """Return whether to evaluate now; all ranks do as the first one says, whose clock decides."""
        step = self.learner.step
        if not referee.is_turn(step):
            return False
        is_due = self.ranks.is_first and referee.affords(teller.row_s)
        return self.ranks.add_up([float(is_due)])[0] > 0

    def _evaluate(self, teller: Teller, referee: Referee) -> None:
        """Evaluate what has been learned, and say so: the first rank does, and the others wait for it."""
        began, learner, config = time.perf_counter(), self.learner, self.stream.config
        whole = learner.whole_result()
        self._enter("evaluating", PATIENCE_S, is_waiting=True)
        with (
            teller.clock.part(EVALUATING),
            told_evaluation_memory(self.path, config.evaluate_rows, learner.step),
        ):
            if self.ranks.is_first:
                if self.evaluator is None:
                    self.evaluator = Evaluator.make(self.stream, learner, self._model_of(whole))
                    for remark in self.evaluator.remarks:
                        self.shown.say(remark)
                found = self.evaluator.evaluate(whole)
                teller.write_evaluation(referee, found, time.perf_counter() - began)
                self.saver.note(learner.step, found.metrics)
                self.shown.say(found.describe(learner.step, config.metric, referee.best))
            referee.is_over = self.ranks.add_up([float(referee.is_over)])[0] > 0
        if referee.is_over:
            value, step = referee.best or (math.nan, 0)
            self.shown.say(
                f"stopped at step {learner.step:,}: {config.metric} was best at step {step:,}, "
                f"{value:.3f}, and not since in {referee.num_worse} evaluations"
            )

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
        return self._model_of(self.learner.whole_result())

    def _model_of(self, program: Program) -> Model:
        """Return a model that shares the parameters of ``program``."""
        model = Model.make(
            replace(
                self.mixture,
                parts=[Task(t.name, t.instruction) for t in self.mixture.tasks],
                weights=None,
            ),
            self.stream.model,
            self.stream.pinned,
            used_artifacts(self.stream),
            program,
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
