"""A run on its way: steps, and what is told, evaluated and saved between them.

Of many ranks all come along here, since much of it they do together: they agree on when to stop and to
evaluate, and add up what they tell. The first one writes and speaks for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...graph.errors import TrainingError
from ...storage.checkpoint import (
    is_checkpoint,
    latest_checkpoint,
    read_checkpoint,
    read_record,
)
from ...storage.files import local_path
from ...storage.loader import Loader
from ..answerer.inference import Model
from ..loader.stream import Stream
from ..model.cost import Cost
from ..model.demand import Demand
from ..model.importing import SCOPES, VOCABULARY
from ..model.program import Program
from ..model.record import refuse_other_run, tell_other_model, used_artifacts
from ..progress import Shown
from ..settings import TrainConfig, profiled_steps
from ..task import Mixture, Task
from .blame import advise, find_documents
from .evaluating import Evaluator
from .interrupt import deferred_interrupts
from .keeping import begin_with, refuse_model, restore, whole_result
from .learner import Learner
from .listener.listening import Audience
from .loss_watch import LossWatch
from .memory import told_evaluation_memory
from .profiling import NAME as TRACE
from .profiling import Tracer
from .ranks import Ranks
from .recipe import tell_recipe
from .referee import Referee
from .run_log import read_log
from .saving import Saver
from .schedule import count_warmup, is_endless
from .step_part import EVALUATING, SAVING, TELLING
from .stepping import Stepper
from .telling import Teller
from .watch import PATIENCE_S


@dataclass(slots=True)
class Running:
    """A run on its way: its directory, what packs demand, where it is shown, tasks that can be evaluated."""

    path: Path
    mixture: Mixture
    stream: Stream
    record: Mapping[str, Any]
    learner: Learner
    demand: Demand
    saver: Saver
    shown: Shown
    validated: Mapping[str, Sequence[str]]
    evaluator: Evaluator | None = None

    def header(self, loader: Loader) -> list[str]:
        """Return what it learns from and with, and how it is evaluated, in sentences.

        Raises:
            TrainingError: It cannot be evaluated as the settings want it.
        """
        learner = self.learner
        return [
            *self.stream.header(loader, learner.program.num_parameters, learner.remark),
            *tell_recipe(learner),
            *Cost.of(self.stream, loader, self.demand).sentences(),
            Referee.over(self.stream.config, self.validated, ()).remark,
        ]

    def remarks(self, last: int) -> Iterator[str]:
        """Yield what a person should know of the steps up to ``last`` that are left to take."""
        done, config = self.learner.step, self.stream.config
        if done:
            left = f"goes on after step {done:,}" if done < last else "no step is left to take"
            yield f"{self.path} has a checkpoint of step {done:,}: {left}"
        if idle := self.stream.model.idle:
            yield f"nothing comes of {', '.join(idle)}: that is for `position: relative` alone"
        if (warmup := count_warmup(config)) > config.steps:
            yield f"the learning rate never gets to its highest: warmup is {warmup:,} of {config.steps:,} steps"
        traced = profiled_steps(config.profile)
        if traced is not None and not (traced.stop - 1 > done and traced.start <= last):
            yield f"nothing is traced: profile is {config.profile}, steps go from {done + 1:,} to {last:,}"

    def facts(self) -> dict[str, Any]:
        """Return what listeners are told of it when it begins."""
        config, model = asdict(self.stream.config), asdict(self.stream.model)
        sizes = self.learner.program.num_parameters
        return {"step": self.learner.step, "settings": config, "model": model, "parameters": sizes}

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
        if checkpoint is None and is_checkpoint(self.path):
            raise refuse_model(self.path)
        if checkpoint is None:
            self._begin_anew()
            return loader
        saved = read_checkpoint(checkpoint, with_training=True)
        was = _as_long_as(self.stream.config, saved.record)
        refuse_other_run(self.path, was, {**self.record, "loader": loader.state()})
        restore(self.learner, saved)
        return self._open_loader(saved.record["loader"])

    def _open_loader(self, state: Mapping[str, Any] | None = None) -> Loader:
        """Return a loader of this rank's share, which begins, or goes on at ``state``."""
        return self.stream.loader(state, rank=self.ranks.rank, num_ranks=self.ranks.number)

    def _begin_anew(self) -> None:
        """Take over the weights that the settings name, and say what they lack."""
        weights = self.stream.config.weights
        if not weights:
            return
        path = local_path(weights)
        taken = begin_with(self.learner, path, used_artifacts(self.stream))
        self.shown.say(
            f"weights     {weights}: {len(taken.names)} tensors, {taken.new_ids} ids are new"
        )
        for line in tell_other_model(
            read_record(latest_checkpoint(path) or path), self.stream.model
        ):
            self.shown.say(f"  computes otherwise than where it was learned: {line}")
        resting = {
            name for name, p in self.learner.program.named_parameters() if not p.requires_grad
        }
        for name in taken.missing:
            stays = ", and stays as it was drawn: let `scopes` learn it in full"
            self.shown.say(f"  begins anew: {name}{stays if name in resting else ''}")
        for name in taken.unused:
            self.shown.say(f"  is left out: {name}")
        if taken.new_ids and SCOPES + VOCABULARY in resting:
            self.shown.say(
                "  new ids stay as they were drawn: let `scopes` learn vocabulary in full"
            )

    def go(self, loader: Loader, last: int, audience: Audience) -> None:
        """Take steps until ``last``, telling of them and saving, unless nothing gets better before."""
        learner, config = self.learner, self.stream.config
        profiled = profiled_steps(config.profile) if self.ranks.is_first else None
        tracer = Tracer(profiled, self.path / TRACE, learner.device)
        with (
            deferred_interrupts() as interrupted,
            self.shown.task("train", total=last, done=learner.step) as bar,
            tracer.until_the_end(),
        ):
            lines = self._read_lines()
            watch = LossWatch.over(lines)
            teller = Teller(
                self.path, self.stream, learner, self.demand, loader, audience, bar, watch
            )
            referee = Referee.over(config, self.validated, lines)
            stepper = Stepper(
                run=self.path,
                stream=self.stream,
                learner=learner,
                loader=loader,
                teller=teller,
                tracer=tracer,
                shown=self.shown,
                last=last,
                settle=self.saver.finish,
            )
            checked = (learner.step, loader.state())
            if referee.is_over:
                self._tell_stop(referee)
            while learner.step < last and not referee.is_over:
                is_stopped = stepper.take(interrupted)
                self._enter("telling of the steps", is_waiting=True)
                is_logged = learner.step == config.steps or learner.step % config.log_every == 0
                is_due = not is_stopped and self._is_due(teller, referee)
                is_saved = self._is_saved(last, is_stopped=is_stopped)
                is_saved |= is_due and bool(config.keep_best)
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
        return self.ranks.gather(lines)[0]

    def _is_due(self, teller: Teller, referee: Referee) -> bool:
        """Return whether to evaluate now; the first rank decides, since clocks may differ."""
        step = self.learner.step
        if not referee.is_turn(step):
            return False
        is_due = self.ranks.is_first and referee.affords(teller.row_s)
        return self.ranks.add_up([float(is_due)])[0] > 0

    def _is_saved(self, last: int, *, is_stopped: bool) -> bool:
        step = self.learner.step
        return is_stopped or step == last or step % self.stream.config.checkpoint_every == 0

    def _evaluate(self, teller: Teller, referee: Referee) -> None:
        """Evaluate what has been learned, on the first of all ranks."""
        self._enter("gathering what was learned", is_waiting=True)
        with teller.clock.part(EVALUATING):
            whole = whole_result(self.learner)
            self._enter("evaluating", is_waiting=not self.ranks.is_first)
            if self.ranks.is_first:
                self._judge(whole, teller, referee)
            self.ranks.watch.wait("waiting for what was found")
            (num_over,) = self.ranks.add_up([float(referee.is_over)])
        referee.is_over = num_over > 0

    def _judge(self, whole: Program, teller: Teller, referee: Referee) -> None:
        """Evaluate the program ``whole``, and say what comes of it."""
        began = time.perf_counter()
        learner, config = self.learner, self.stream.config
        with told_evaluation_memory(self.path, config.evaluate_rows, learner.step):
            if self.evaluator is None:
                model = self.model(whole)
                self.evaluator = Evaluator.make(self.stream, learner, model)
                for remark in self.evaluator.remarks:
                    self.shown.say(remark)
            found = self.evaluator.evaluate(whole)
            teller.write_evaluation(referee, found, time.perf_counter() - began)
        self.saver.note(learner.step, found.metrics)
        self.shown.say(found.describe(learner.step, config.metric, referee.best))
        if referee.is_over:
            self._tell_stop(referee)

    def _tell_stop(self, referee: Referee) -> None:
        value, step = referee.best or (math.nan, 0)
        self.shown.say(
            f"stopped at step {self.learner.step:,}: {self.stream.config.metric} was best at step {step:,}, "
            f"{value:.3f}, and not since in {referee.num_worse} evaluations"
        )

    def _save(self, loader: Loader, *, is_last: bool) -> None:
        self._enter("saving", is_waiting=True)
        record = {**self.record, "loader": loader.state(), "step": self.learner.step}
        self.saver.save(record, used_artifacts(self.stream))
        if is_last:
            self.saver.finish()

    def _enter(self, doing: str, *, is_waiting: bool) -> None:
        watch, step = self.ranks.watch, self.learner.step + 1
        watch.enter(doing, step=step, limit_s=PATIENCE_S, is_waiting=is_waiting)

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
        raise TrainingError.of("T0731", message, f"{told}{saved}\n{advise(self.stream.config)}")

    def model(self, whole: Program) -> Model:
        """Return what the run has come to, all of whose parameters are in ``whole``, as a model."""
        model = Model.make(
            replace(
                self.mixture,
                parts=[Task(t.name, t.instruction) for t in self.mixture.tasks],
                weights=None,
            ),
            self.stream.model,
            self.stream.pinned,
            used_artifacts(self.stream),
            whole,
        )
        model.program.to(self.learner.device).eval()
        return model


def _as_long_as(config: TrainConfig, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the ``record`` of a run with the steps of ``config``, where no learning rate depends on them."""
    was = record["settings"]
    begun = replace(config, steps=was["steps"])
    if not all(is_endless(each, record["step"]) for each in (begun, config)):
        return record
    return {**record, "settings": {**was, "steps": config.steps}}
