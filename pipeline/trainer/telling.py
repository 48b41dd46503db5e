"""Telling: how a run goes, to whoever hears of it and beside its bar.

What is told of steps is gathered as they are taken and put together when a line of the log is due, so that
telling costs a step next to nothing.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...graph.render.quantity import write_bytes, write_share
from ...storage.loader import Loader
from ...storage.pack import Pack
from ..loader.stream import Stream
from ..model.demand import Demand
from ..model.hardware import peak_flops
from ..model.precision import precision_of_products
from ..progress import Bar
from .diverging import warn_of_divergence
from .documents import Rows
from .evaluating import Evaluated
from .learner import Learner
from .listener.listening import Listener
from .loss_watch import LossWatch
from .referee import Referee
from .sample import write_samples
from .step_clock import Amount, StepClock, Times
from .step_part import WAITING


@dataclass(slots=True)
class Teller:
    """Tells of a run.

    Attributes:
        run: Its directory.
        stream: What it learns from.
        learner: What learns.
        demand: What packs demand.
        loader: Where packs come from.
        audience: Who hears of it.
        bar: Where it is shown.
        watch: Looks at its loss.
        clock: Times its steps.
    """

    run: Path
    stream: Stream
    learner: Learner
    demand: Demand
    loader: Loader
    audience: Listener
    bar: Bar
    watch: LossWatch
    clock: StepClock = field(init=False)
    _peak: float | None = field(init=False)
    _waited_s: float = 0.0
    _done: Amount = field(default=Amount(0, 0, 0.0))
    _done_steps: int = 0
    _done_s: float = 0.0
    _learned: list[tuple[int, Rows]] = field(default_factory=list[tuple[int, Rows]])

    def __post_init__(self) -> None:
        self.clock = StepClock(self.learner.device)
        self._peak = _peak_of(self.learner)

    def waited(self, seconds: float) -> None:
        """Take note of a wait for packs."""
        self._waited_s += seconds
        self.clock.add(WAITING, seconds)

    def took(self, packs: Sequence[Pack]) -> None:
        """Take note of the step that was taken on ``packs``."""
        ranges = [each for pack in packs for each in (pack.source_ranges, pack.target_ranges)]
        amount = Amount(
            tokens=sum(int(np.diff(each).sum()) for each in ranges),
            samples=sum(len(pack.rows) for pack in packs),
            flops=self.demand.of_packs(packs),
        )
        self.clock.end_step(self.learner.step, amount)
        # Copies, for a view would keep all of its pack.
        self._learned += [(self.learner.step, pack.rows.copy()) for pack in packs]
        self.bar.advance()

    def write_line(self) -> None:
        """Write a line of the log on what happened since the last one."""
        learner = self.learner
        times = self._of_all(self.clock.read())
        line = learner.measure(self.stream.losses, waited_s=self._waited_s)
        self._waited_s = 0.0
        self._add_progress(line["mixture"], len(line["packs"]))
        line |= {
            "speed": self._describe_speed(times),
            "memory": _describe_memory(learner.device),
            "time": times.parts,
            "step_s": times.step_s,
            "slow": [each._asdict() for each in times.slow],
        }
        self._warn_if_it_diverges(line)
        self.audience.logged(line)
        self._done = self._done.plus(times.amount)
        self._done_s += times.counted_s
        self._done_steps += times.num_counted
        if self._done_s:
            self.bar.set_pace(self._done_steps / self._done_s)
        self.bar.note(_describe(line))

    def write_evaluation(self, referee: Referee, found: Evaluated, spent_s: float) -> None:
        """Write a line of the log on an evaluation that took ``spent_s`` in all, and its samples."""
        line = referee.judge(self.learner.step, found, spent_s)
        write_samples(self.run, self.learner.step, found.samples)
        self.audience.evaluated(line, [sample.to_json() for sample in found.samples])

    @property
    def row_s(self) -> float:
        """About how many seconds it takes to learn from a row."""
        return self._done_s / max(self._done.samples, 1)

    def _of_all(self, times: Times) -> Times:
        """Return ``times`` of this rank with what all ranks learned from in them, told together."""
        ranks = self.learner.ranks
        if ranks.number == 1:
            return times
        tokens, samples, flops = ranks.add_up([float(number) for number in times.amount])
        return replace(times, amount=Amount(int(tokens), int(samples), flops))

    def _add_progress(self, mixture: dict[str, dict[str, Any]], num_steps: int) -> None:
        """Add, for each task, the share asked for in the last steps, and how often its rows were seen."""
        step, seen = self.learner.step, self.loader.num_seen
        asked = self.stream.blend.mean(range(step - num_steps, step))
        for task in self.loader.report.tasks:
            numbers = mixture.setdefault(task.name, {})
            numbers["asked"] = asked[task.name]
            numbers["epochs"] = seen[task.name] / task.num_rows

    def _describe_speed(self, times: Times) -> dict[str, float | None]:
        flops_per_s = times.rate(times.amount.flops)
        mfu = None if self._peak is None or flops_per_s is None else flops_per_s / self._peak
        total_s = sum(times.step_s)
        return {
            "tokens_per_s": times.rate(times.amount.tokens),
            "samples_per_s": times.rate(times.amount.samples),
            "flops_per_s": flops_per_s,
            "mfu": mfu,
            "waiting": times.parts.get(WAITING, 0.0) / total_s if total_s else None,
        }

    def _warn_if_it_diverges(self, line: dict[str, Any]) -> None:
        """Look at the loss of ``line``, as all ranks do, and say so if it has left where it was."""
        begun = self.watch.look(line["step"], line["loss"])
        if begun is not None:
            line["diverges_since"] = begun
            gathered = chain.from_iterable(self.learner.ranks.gather(self._learned))
            if self.learner.ranks.is_first:
                learned = sorted(gathered, key=itemgetter(0))
                warn_of_divergence(self.run, self.stream, line, self.watch.good_step, learned)
        if not self.watch.is_alert:
            self._learned = []


def _peak_of(learner: Learner) -> float | None:
    """Return the peak of all devices of a run, in FLOP/s; None where it is not known, as of a CPU."""
    device = learner.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    peak = peak_flops(name, precision_of_products(learner.config.precision))
    return None if peak is None else peak * learner.ranks.number


def _describe_memory(device: torch.device) -> dict[str, int]:
    """Return the most bytes that the process has held, and that tensors have taken on a GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    told = {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        told["device_bytes"] = torch.cuda.max_memory_allocated(device)
    return told


def _describe(line: Mapping[str, Any]) -> str:
    """Return a line of the log in a few words."""
    told = [] if line["loss"] is None else [f"loss {line['loss']:.3f}"]
    speed, memory = line["speed"], line["memory"]
    if speed["tokens_per_s"] is not None:
        told.append(f"{speed['tokens_per_s']:,.0f} tokens/s")
    if speed["mfu"] is not None:
        told.append(f"MFU {write_share(speed['mfu'])}")
    told.append(write_bytes(memory.get("device_bytes", memory["host_bytes"])))
    return ", ".join(told)
