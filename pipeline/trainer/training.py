"""Training: one model on a mixture, resumable at every checkpoint to the bit.

A run is a directory: ``log.jsonl`` says how it goes, ``header.json`` what it learns from, ``measures.json``
what a few steps cost, ``samples/`` what the model answered, each ``step-…`` is a checkpoint. Training into a
directory again goes on from its last checkpoint with the same parameters, optimizer, random numbers and rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...graph.errors import LoaderError, Problem, TrainingError, suggest
from ...ops.device.config import ModelConfig
from ...storage.access import is_url
from ...storage.capacity import Capacity
from ...storage.files import local_path
from ...storage.store import Store
from ..answerer.inference import Model
from ..loader.stream import open_stream
from ..model.demand import Demand
from ..model.record import run_capacity, run_record
from ..progress import open_progress
from ..settings import TrainConfig, split_words
from ..task import Mixture, Task, as_mixture
from .evaluating import validated_tasks
from .keeping import whole_result
from .learner import Learner, own_torch
from .listener.listening import Audience, Listener
from .listener.service import open_services
from .ranks import choose_own_device, join_ranks
from .run_log import RunLog
from .running import Running
from .saving import Saver, fetch_run, try_mirror
from .scopes import apply_rules
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
        StoreError: Some task is not built, or was built otherwise than it stands now; ``out`` is a URL, or
            ``mirror`` cannot be written.
        LoaderError: Some task has no training rows.
        CheckpointError: ``out`` holds a run of other tasks or settings.
        TrainingError: A setting is unknown or out of range, the loss is no longer a number, the memory does not
            suffice, or another rank of the run is gone.
        MissingExtraError: A service that is to hear of it, or the library of ``mirror``, is not installed.
        KeyboardInterrupt: The run was interrupted; it was saved first.
    """
    config = _configure(config or TrainConfig(), settings)
    if stop_at is not None and stop_at < 1:
        raise TrainingError.of("T0730", f"stop_at must be at least 1, got {stop_at}")
    services = open_services(split_words(config.log_to))
    mixture = as_mixture(mixture)
    store = store if isinstance(store, Store) else Store.open(store)
    device = choose_own_device(config.device)
    with (
        join_ranks(config, device) as ranks,
        own_torch(config, device),
        open_progress(shown=progress and ranks.is_first) as shown,
    ):
        ranks.refuse_uneven(config.packs_per_step)
        # What is on another machine is waited for, and nothing is done meanwhile.
        is_far = bool(config.mirror) or is_url(str(store))
        ranks.watch.enter("beginning", limit_s=PATIENCE_S, is_waiting=True, may_rest=is_far)
        path = local_path(out)
        if (fetched := fetch_run(path, config, ranks)) is not None:
            shown.say(f"fetched {fetched.name} of {config.mirror} to {path}")
        capacity = run_capacity(path)
        stream = open_stream(mixture, store, model or ModelConfig(), config, capacity)
        learner = Learner.make(stream.plan, config, device, ranks)
        run = Running(
            path=path,
            mixture=mixture,
            stream=stream,
            record=run_record(mixture, stream),
            learner=learner,
            demand=Demand.of(stream, lambda program, _: apply_rules(program, config.scopes)),
            saver=Saver(path, learner, config),
            shown=shown,
            validated=validated_tasks(stream),
        )
        with _told_of_the_shape_in(path, capacity):
            loader = run.begin()
        header = run.header(loader)
        for line in header:
            shown.say(line)
        last = min(config.steps, config.steps if stop_at is None else stop_at)
        for line in run.remarks(last):
            shown.say(line)
        is_done = learner.step >= last
        if not is_done:
            try_mirror(config, ranks)
        # Of a run that is only given back nobody hears, and as many as want to read it may; of many ranks the
        # first one speaks.
        is_silent = is_done or not ranks.is_first
        audience = Audience([] if is_silent else [RunLog(), *services, *listeners])
        with loader, audience.until_the_end():
            audience.began(run.path, header, run.facts())
            run.go(loader, last, audience)
        come_to = run.model(whole_result(learner))
    return Run(
        path=run.path, step=learner.step, model=come_to, header=tuple(header), rank=ranks.rank
    )


@contextmanager
def _told_of_the_shape_in(run: Path, capacity: Capacity | None) -> Generator[None]:
    """Say that the shape of packs, ``capacity``, is that of ``run``, where documents do not fit it."""
    try:
        yield
    except LoaderError as error:
        if capacity is None or error.problems[-1].code != "T0602":
            raise
        last = error.problems[-1]
        help_ = f"{last.help}\nthat is the shape of the run that {run} holds: train into another directory"
        raise LoaderError(*error.problems[:-1], replace(last, help=help_)) from None


def _configure(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    known = [f.name for f in dataclasses.fields(TrainConfig)]
    if unknown := [name for name in settings if name not in known]:
        problems = (
            Problem("T0732", f'train has no setting "{name}"', suggest(name, known))
            for name in unknown
        )
        raise TrainingError(*problems)
    return replace(config, **settings)
