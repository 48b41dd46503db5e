"""Stepping: one step after the other, timed, measured or traced as it is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...storage.loader import Loader
from ...storage.pack import Pack
from ..loader.stream import Stream
from ..progress import Shown
from .learner import Learner
from .memory import told_memory
from .profiling import Tracer
from .recipe import tell_costs
from .step_meter import NUM_STEPS, StepMeter, timed
from .step_part import COMPILING, LEARNING, MEASURING, PROFILING, WARMING
from .telling import Teller


@dataclass(slots=True)
class Stepper:
    """Takes steps.

    Attributes:
        run: Directory of the run.
        stream: What is learned from.
        learner: What learns.
        loader: Where packs come from.
        teller: Hears of every step.
        tracer: Traces some.
        shown: Where remarks are shown.
        last: The last step.
        settle: Waits for a checkpoint that is on its way.
    """

    run: Path
    stream: Stream
    learner: Learner
    loader: Loader
    teller: Teller
    tracer: Tracer
    shown: Shown
    last: int
    settle: Callable[[], None]
    _meter: StepMeter = field(init=False)
    _steps: Iterator[tuple[Sequence[Pack], float]] = field(init=False)
    _is_first: bool = True
    _recording: str = ""

    def __post_init__(self) -> None:
        self._meter = StepMeter.within(self.stream, self.learner, self.loader, self.last)
        self._steps = timed(self.loader)

    def take(self, interrupted: Callable[[], bool]) -> bool:
        """Take a step; return whether somebody has asked to stop.

        Args:
            interrupted: Says whether somebody has asked this rank to.

        Raises:
            TrainingError: The memory does not suffice.
        """
        learner, meter, step = self.learner, self._meter, self.learner.step + 1
        self._enter("waiting for packs", step)
        packs, waited_s = next(self._steps)
        self.teller.waited(waited_s)
        self.tracer.begin(step)
        with (
            self.teller.clock.part(self._doing()),
            told_memory(self.run, self.stream, packs, step, self.settle),
            meter.around(packs, waited_s),
        ):
            is_stopped = learner.take(packs, is_stopping=interrupted())
        if self.tracer.end(step):
            self.shown.say(f"traced: {self.tracer.path}")
        if meter.is_full:
            self._end_measuring()
        self.teller.took(packs)
        if (told := learner.recording) != self._recording:
            self.shown.say(told)
            self._recording = told
        self._is_first = False
        # Ranks have agreed before the step on what each of them knew then. Alone, the last moment counts; it is
        # asked once a step, or an interrupt might go by unsaved.
        return interrupted() if learner.ranks.number == 1 else is_stopped

    def _end_measuring(self) -> None:
        if self.learner.ranks.is_first:
            self._meter.result().write(self.run)
        for line in tell_costs(self.learner, self._meter.taken_s):
            self.shown.say(line)
        # Not before: steps are measured as they come, and need the memory that a recording keeps.
        self.learner.record()

    def _enter(self, doing: str, step: int) -> None:
        limit_s = self.stream.config.loader_timeout_s
        self.learner.ranks.watch.enter(doing, step=step, limit_s=limit_s, may_rest=True)

    def _doing(self) -> str:
        """Return what a step is at."""
        if self._is_first:
            return COMPILING if self.learner.is_compiled else WARMING
        if self.tracer.is_on:
            return PROFILING
        first = self._meter.first
        is_measured = first <= self.learner.step < first + NUM_STEPS
        return MEASURING if is_measured else LEARNING
