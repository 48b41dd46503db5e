"""Verifying that a run resumes exactly: its packs are made again, and compared with those that its log names.

Every step's packs have a fingerprint in the log. From the beginning of the run, and from the state of each of
its checkpoints, the stream is planned and filled anew; nothing is learned. Where a comparison ends at the next
checkpoint, the loader must also have come to the very state that stands there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...graph.errors import TrainingError
from ...ops.device.config import ModelConfig
from ...storage.checkpoint import list_checkpoints, read_record
from ...storage.pack import fingerprint
from ...storage.store import Store
from ..loader.stream import Stream, open_stream
from ..model.record import refuse_other_run, run_capacity, run_record
from ..settings import TrainConfig
from ..task import Mixture, Task, as_mixture
from .run_log import find_log


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Steps that were made again from one place.

    Attributes:
        start: The step after which the place is; 0 is the beginning of the run.
        stop: The last step.
        num_compared: How many of them the log has a fingerprint of.
        is_met: Whether the state that was come to is that of the checkpoint there; None if there is none.
    """

    start: int
    stop: int
    num_compared: int
    is_met: bool | None

    def __str__(self) -> str:
        where = f"the checkpoint of step {self.start:,}" if self.start else "the beginning"
        told = f"from {where}: steps {self.start + 1:,} to {self.stop:,}"
        told += f", {self.num_compared:,} compared with the log"
        return told + ("; it comes to the state of the next checkpoint" if self.is_met else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeReport:
    """What was compared; all of it was the same.

    Attributes:
        run: Directory of the run.
        compared: From each place, in order.
        passed_over: Steps of checkpoints that belong to an earlier mixture, which cannot be made again.
    """

    run: Path
    compared: tuple[Compared, ...]
    passed_over: tuple[int, ...]

    def __str__(self) -> str:
        steps = sum(each.num_compared for each in self.compared)
        lines = [f"{self.run} resumes exactly: {steps:,} steps made again are those of its log"]
        lines += [f"  {each}" for each in self.compared]
        lines += [
            f"  not from the checkpoint of step {step:,}: its mixture was another"
            for step in self.passed_over
        ]
        return "\n".join(lines)


def verify_resume(
    mixture: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    *,
    out: str | Path,
    model: ModelConfig | None = None,
    config: TrainConfig | None = None,
    num_steps: int | None = None,
) -> ResumeReport:
    """Make the packs of a run again, from its beginning and from each of its checkpoints.

    Args:
        mixture: The tasks, as they were trained.
        store: The store they were built into.
        out: Directory of the run.
        model: Sizes of the model.
        config: Settings of the run; those that decide what is learned are taken from its record.
        num_steps: Most steps to make from each place; up to the next one if not given.

    Raises:
        TrainingError: A step is not the one that was learned from (T0734), or there is nothing to compare
            (T0735), or no log (T0784).
        CheckpointError: The run is of other tasks or settings.
    """
    run, mixture = Path(out), as_mixture(mixture)
    store = store if isinstance(store, Store) else Store.open(store)
    paths = list_checkpoints(run)
    if not paths:
        help_ = "train first; a run is saved at the latest when it is interrupted"
        raise TrainingError.of("T0735", f"{run} has no checkpoint to resume at", help_)
    logged = _read_fingerprints(run)
    records = [read_record(path) for path in paths]
    settings = {**asdict(config or TrainConfig()), **records[-1]["settings"]}
    chosen = TrainConfig(**settings)
    stream = open_stream(mixture, store, model or ModelConfig(), chosen, run_capacity(run))
    begun = stream.loader().state()
    refuse_other_run(run, records[-1], {**run_record(mixture, stream), "loader": begun})
    last = records[-1]["loader"]["segments"][-1]
    places: list[tuple[int, Any]] = [(r["step"], r["loader"]) for r in records]
    passed_over = tuple(step for step, state in places if state["segments"][-1] != last)
    places = [place for place in places if place[0] not in passed_over]
    if begun["segments"][-1] == last:
        places.insert(0, (0, None))
    compared = tuple(_compare(run, stream, places, logged, num_steps))
    if not any(each.num_compared for each in compared):
        help_ = "the log has no fingerprints: it was written by an earlier version, or is cut"
        raise TrainingError.of("T0735", f"nothing of {run} can be compared", help_)
    return ResumeReport(run=run, compared=compared, passed_over=passed_over)


def _compare(
    run: Path,
    stream: Stream,
    places: Sequence[tuple[int, Any]],
    logged: Mapping[int, str],
    num_steps: int | None,
) -> Iterator[Compared]:
    """Yield what was made again from each of ``places`` to the next, the last one to the end of the log."""
    ends = [*places[1:], (max([*logged, places[-1][0]]), None)]
    for (start, state), (end, expected) in zip(places, ends, strict=True):
        stop = end if num_steps is None else min(end, start + num_steps)
        if stop == start:
            continue
        num_compared = 0
        with stream.loader(state) as loader:
            for step, packs in zip(range(start + 1, stop + 1), loader, strict=False):
                if step in logged and fingerprint(packs) != logged[step]:
                    raise _say_other(run, start, step)
                num_compared += step in logged
            met = json.loads(json.dumps(loader.state()))
        is_whole = stop == end and expected is not None
        if is_whole and met != expected:
            raise _say_other(run, start, end)
        yield Compared(
            start=start, stop=stop, num_compared=num_compared, is_met=True if is_whole else None
        )


def _read_fingerprints(run: Path) -> dict[int, str]:
    """Return the fingerprint of every step that the log of ``run`` names."""
    found: dict[int, str] = {}
    for line in find_log(run):
        prints: list[str] = line.get("packs", [])
        found |= zip(range(line["step"] - len(prints) + 1, line["step"] + 1), prints, strict=True)
    return found


def _say_other(run: Path, start: int, step: int) -> TrainingError:
    where = f"resumed at the checkpoint of step {start:,}" if start else "begun anew"
    message = f"{run}, {where}, has other packs at step {step:,} than its log says"
    help_ = (
        "the steps before it are the same; `taskloom verify` says whether the store is damaged\n"
        "otherwise taskloom or a library is not the version that made them: train into another directory"
    )
    return TrainingError.of("T0734", message, help_)


__all__ = ["Compared", "ResumeReport", "verify_resume"]
