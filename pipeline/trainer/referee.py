"""A referee: when a run is evaluated, which evaluation was the best, and when nothing gets better any more.

A turn comes every ``evaluate_every`` steps. It is passed over while evaluating has taken, or would take, more
than ``evaluate_share`` of the run's time: what an evaluation costs, the one before tells. All that is known of
earlier evaluations stands in the log, so a run that goes on needs nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ...graph.errors import Problem, TrainingError, suggest
from ..settings import TrainConfig
from .evaluating import Evaluated
from .metric import METRICS, sign_of

_GUESS = 2.0
"""A row that is evaluated, in rows that are learned from, while nobody knows better."""

_TO_EVALUATE: Final = (
    "give a task valid=… and key=…, or a source with a split valid, and evaluate_every above 0"
)


@dataclass(slots=True)
class Referee:
    """Decides on evaluations of a run.

    Attributes:
        config: Settings of the run.
        tasks: Tasks that can be evaluated, with the losses that are told of each.
        best: The best value so far of the setting ``metric``, and its step.
        num_worse: Evaluations since then.
        is_over: Whether the run is to stop.
    """

    config: TrainConfig
    tasks: Mapping[str, Collection[str]]
    best: tuple[float, int] | None = None
    num_worse: int = 0
    is_over: bool = False
    _spent_s: float = 0.0
    _last_s: float | None = None
    _before_s: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    @classmethod
    def over(
        cls,
        config: TrainConfig,
        tasks: Mapping[str, Collection[str]],
        lines: Iterable[Mapping[str, Any]],
    ) -> Referee:
        """Return the referee of a run whose log has ``lines``.

        Raises:
            TrainingError: A setting names no metric, or there is nothing to evaluate it on (T0780).
        """
        _refuse_metrics(config, tasks)
        referee = cls(config, tasks)
        for line in lines:
            referee._before_s += line.get("seconds", 0.0)
            if "evaluation" in line:
                referee._spend(line["seconds"])
                referee._judge(line["step"], line["evaluation"].get("value"))
        return referee

    @property
    def remark(self) -> str:
        """What a person should know of how the run is evaluated."""
        config = self.config
        if not config.evaluate_every:
            return "not evaluated while training: evaluate_every is 0"
        if not self.tasks:
            return "not evaluated while training: no task has rows in the split valid"
        if config.evaluate_every > config.steps:
            every = f"evaluate_every is {config.evaluate_every:,}"
            return f"not evaluated while training: {every}, and the run has {config.steps:,} steps"
        told = (
            f"evaluated every {config.evaluate_every:,} steps on up to {config.evaluate_rows:,} rows of "
            f"{', '.join(self.tasks)}"
        )
        if config.evaluate_share < 1:
            told += f", in at most {config.evaluate_share:.0%} of the time"
        if config.stop_after:
            told += f"; stops after {config.stop_after} without a better {config.metric}"
        return told

    def is_turn(self, step: int) -> bool:
        """Return whether an evaluation may come after ``step``."""
        every = self.config.evaluate_every
        return bool(every and self.tasks) and step % every == 0

    def affords(self, row_s: float) -> bool:
        """Return whether an evaluation now would be within its share of the time.

        Args:
            row_s: Seconds that learning from a row takes, about.
        """
        config = self.config
        if config.evaluate_share >= 1:
            return True
        guess_s = _GUESS * row_s * config.evaluate_rows * len(self.tasks)
        needed_s = self._spent_s + (guess_s if self._last_s is None else self._last_s)
        elapsed_s = self._before_s + time.perf_counter() - self._began
        return needed_s <= config.evaluate_share * elapsed_s

    def judge(self, step: int, found: Evaluated, spent_s: float) -> dict[str, Any]:
        """Return the line of the log for an evaluation that took ``spent_s`` with all that it needed."""
        self._spent_s += spent_s
        self._last_s = found.seconds
        value = found.metrics.get(self.config.metric)
        is_best = self._judge(step, value)
        evaluation = {
            "tasks": found.tasks,
            "mean": found.mean,
            "metric": self.config.metric,
            "value": value,
            "is_best": is_best,
            "stops": self.is_over,
        }
        return {"step": step, "evaluation": evaluation, "seconds": round(spent_s, 3)}

    def _spend(self, seconds: float) -> None:
        self._spent_s += seconds
        self._last_s = seconds

    def _judge(self, step: int, value: float | None) -> bool:
        """Take note of a value, and return whether it is the best."""
        if value is None:
            return False
        sign = sign_of(self.config.metric)
        if self.best is None or sign * value > sign * self.best[0]:
            self.best, self.num_worse = (value, step), 0
            return True
        self.num_worse += 1
        self.is_over = 0 < self.config.stop_after <= self.num_worse
        return False


def _refuse_metrics(config: TrainConfig, tasks: Mapping[str, Collection[str]]) -> None:
    """Check that evaluations give what they are compared by, and what checkpoints are kept by."""
    named = {"metric": config.metric}
    if config.keep_best:
        named["keep_best"] = config.keep_best
    told = [name for names in tasks.values() for name in names]
    problems = [p for setting, metric in named.items() for p in _problems_of(setting, metric, told)]
    if not (tasks and config.evaluate_every):
        problems += [
            Problem("T0780", f"{setting} is {value}, and nothing is evaluated", help_)
            for setting, value, help_ in (
                ("stop_after", config.stop_after, f"{_TO_EVALUATE}; or set stop_after to 0"),
                ("keep_best", config.keep_best, f"{_TO_EVALUATE}; or leave keep_best out"),
            )
            if value
        ]
    if problems:
        raise TrainingError(*problems)


def _problems_of(setting: str, metric: str, told: Collection[str]) -> Iterator[Problem]:
    loss, _, name = metric.rpartition(".")
    if name not in METRICS:
        message = f'{setting} is "{metric}", which evaluations do not tell'
        help_ = f"{suggest(name, METRICS)}; of one task it is TASK.{METRICS[0]}"
        yield Problem("T0780", message, help_)
    elif loss and loss not in told:
        message = f'{setting} is "{metric}", and no task "{loss}" has rows to evaluate on'
        yield Problem("T0780", message, suggest(loss, told))
