"""The loader: an endless, shuffled, mixed and packed stream of steps, resumable exactly.

A *step* is a fixed number of packs, whatever ranks and micro-batches they are divided into. The
stream is planned from lengths, a window at a time, and filled from columns, a step at a time, in
one background thread. It is a pure function of the plan digest, the settings, the rows and their
lengths; so the state is a position and resuming costs the planning of one window.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
import xxhash

from ..graph.errors import LoaderError, Problem, suggest
from .capacity import Capacity
from .effort import Effort
from .fill import FILLED_TOGETHER, PackFiller
from .length import measure_documents, select_fitting
from .pack import Pack
from .prefetch import Prefetcher
from .report import StreamReport
from .resume import LoaderState, TaskState
from .template import Columns, Documents, Template
from .tile import Ints
from .window import PackPlan, WindowPlanner


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How a stream is made.

    Attributes:
        capacity: What a pack holds.
        weights: Relative share of samples of each task; by default as many as it has rows.
        seed: Decides every order.
        packs_per_step: Packs in one step, at least 1.
        window_size: Most samples that are packed together.
        prefetch: Steps to stay ahead in the background; 0 for no thread. Changes no result.
        pad_id: Id at positions of no document.
    """

    capacity: Capacity
    weights: Mapping[str, float] | None = None
    seed: int = 0
    packs_per_step: int = 1
    window_size: int = 4096
    prefetch: int = 4
    pad_id: int = 0

    def __post_init__(self) -> None:
        least = {"packs_per_step": 1, "window_size": 1, "prefetch": 0}
        wrong = [
            f"{name} must be at least {number}, got {getattr(self, name)}"
            for name, number in least.items()
            if getattr(self, name) < number
        ]
        if wrong:
            raise LoaderError(*(Problem("T0606", message) for message in wrong))


class Loader:
    """Iterates over the steps of a mixture, without end.

    Iterating again goes on where the last step was handed out. Use it in a ``with`` block, or close
    it, to stop its thread at once.
    """

    def __init__(
        self,
        templates: Sequence[Template],
        rows: Mapping[str, Ints],
        columns: Columns,
        config: LoaderConfig,
        *,
        plan_digest: str,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Plan the stream.

        Args:
            templates: What documents are made of; each row of a task is seen with one of its
                templates in a pass. Their order numbers them.
            rows: Global rows of each task that may be seen, valid in every column of the task.
            columns: Every column that the templates name.
            config: How the stream is made.
            plan_digest: Digest of the plan that the columns come from.
            state: Where to go on, as `state` gave it.

        Raises:
            LoaderError: A task has no rows (T0601), none that fits a pack (T0602), or rows without
                a value (T0604); columns do not go together (T0605); the settings make no sense
                (T0606); the state is none (T0607) or is of another stream (T0603). All problems are
                named together.
        """
        measured = _measure_all(templates, rows, columns, config.capacity)
        documents = select_fitting(measured, config.capacity)
        weights = _choose_weights(documents, config.weights)
        self.config = config
        self._planner = WindowPlanner(
            documents, config.capacity, weights, config.seed, config.window_size
        )
        self.effort = Effort()
        self._filler = PackFiller(
            templates, columns, config.capacity, config.pad_id, self.effort.gathering
        )
        self._position = LoaderState(
            plan_digest=plan_digest,
            seed=config.seed,
            packs_per_step=config.packs_per_step,
            window_size=config.window_size,
            pad_id=config.pad_id,
            capacity=asdict(config.capacity),
            tasks=tuple(
                TaskState(
                    name=each.template.name,
                    weight=weight,
                    num_rows=len(each),
                    digest=_digest(each),
                    count=0,
                )
                for each, weight in zip(documents, weights, strict=True)
            ),
            step=0,
            window=0,
            pack=0,
        )
        self.report = StreamReport.of(
            self._planner.plan(0, np.zeros(len(documents), np.int64)).packs,
            documents,
            [len(all_) - len(each) for all_, each in zip(measured, documents, strict=True)],
            config.capacity,
        )
        if state is not None:
            given = LoaderState.from_json(state)
            self._position.check_same_stream(given)
            self._position = given
        self._prefetcher: Prefetcher[tuple[tuple[Pack, ...], LoaderState]] | None = None

    def __iter__(self) -> Iterator[tuple[Pack, ...]]:
        self.close()
        steps = self._steps(self._position)
        if not self.config.prefetch:
            for packs, position in steps:
                self._position = position
                yield packs
            return
        with Prefetcher(steps, self.config.prefetch) as self._prefetcher:
            for packs, position in self._prefetcher:
                self._position = position
                yield packs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the background thread and wait for it; iterating again starts another."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    def state(self) -> dict[str, Any]:
        """Return the position after the last step that was handed out, as plain JSON."""
        return self._position.to_json()

    def header(
        self, num_steps: int, *, source_flops: float = 1.0, target_flops: float = 1.0
    ) -> list[str]:
        """Return what a run of ``num_steps`` will see: a sentence per task, then the fill.

        Args:
            num_steps: Steps of the run.
            source_flops: Linear FLOPs of the encoder per source position, in any unit.
            target_flops: Linear FLOPs of the decoder per target position, in the same unit.
        """
        num_packs = num_steps * self.config.packs_per_step
        tasks = self.report.describe_tasks(num_packs, f"{num_steps:,} steps")
        return [*tasks, self.report.describe_fill(source_flops, target_flops)]

    def _steps(self, position: LoaderState) -> Iterator[tuple[tuple[Pack, ...], LoaderState]]:
        num_steps = -(-FILLED_TOGETHER // position.packs_per_step)
        plans = self._plans(position)
        while True:
            began = time.perf_counter()
            steps = list(islice(plans, num_steps))
            filled = self._filler.fill([plan for step, _ in steps for plan in step])
            self.effort.packs += len(filled)
            self.effort.seconds += time.perf_counter() - began
            packs = iter(filled)
            for step, after in steps:
                yield tuple(islice(packs, len(step))), after

    def _plans(self, position: LoaderState) -> Iterator[tuple[list[PackPlan], LoaderState]]:
        plans: list[PackPlan] = []
        while True:
            counts = np.array([task.count for task in position.tasks], np.int64)
            window = self._planner.plan(position.window, counts)
            for number, plan in enumerate(window.packs[position.pack :], start=position.pack + 1):
                plans.append(plan)
                if len(plans) == position.packs_per_step:
                    position = replace(position, step=position.step + 1, pack=number)
                    yield plans, position
                    plans = []
            tasks = tuple(
                replace(task, count=count)
                for task, count in zip(position.tasks, window.next_counts.tolist(), strict=True)
            )
            position = replace(position, tasks=tasks, window=position.window + 1, pack=0)


def to_torch(pack: Pack) -> dict[str, torch.Tensor]:
    """Return the arrays of ``pack`` that the program reads, as tensors that share their memory.

    The names are those of the fields; the tensors of a lane go by the lane's name, and their
    positions by ``<lane>_places``. What is for people stays behind.
    """
    arrays = {name: getattr(pack, name) for name in _STREAMS}
    arrays |= pack.tensors
    arrays |= {f"{lane}_places": places for lane, places in pack.places.items()}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


_STREAMS = [
    field.name
    for field in fields(Pack)
    if field.name not in ("tensors", "places", "rows", "source_ranges", "target_ranges")
]


def _measure_all(
    templates: Sequence[Template], rows: Mapping[str, Ints], columns: Columns, capacity: Capacity
) -> list[Documents]:
    """Return the documents of every task, each of which has some that fit."""
    measured: list[Documents] = []
    problems: list[Problem] = []
    for template in templates:
        try:
            if not len(rows.get(template.task, ())):
                raise _say_empty(template)
            documents = measure_documents(template, columns, rows[template.task])
            if not capacity.fits(documents).any():
                raise _say_too_long(documents, capacity)
            measured.append(documents)
        except LoaderError as error:
            problems += error.problems
    names = [template.name for template in templates]
    problems += [
        Problem("T0606", f'two tasks are named "{name}"', "give each task a name of its own")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if not templates:
        problems.append(Problem("T0601", "there are no tasks to load"))
    if problems:
        raise LoaderError(*problems)
    return measured


def _say_empty(template: Template) -> LoaderError:
    message = f'task "{template.task}" has no rows'
    help_ = f'no row of source "{template.source_name}" passes its filters with every value'
    return LoaderError.of("T0601", message, help_)


def _say_too_long(documents: Documents, capacity: Capacity) -> LoaderError:
    task, (max_source, max_target) = documents.template.task, capacity.longest
    lanes = {lane: int(numbers.min()) for lane, numbers in documents.tensors.items()}
    shortest = (
        f"its shortest documents take {documents.source_lengths.min()} source positions and "
        f"{documents.target_lengths.min()} target positions, tensors: {lanes or 'none'}"
    )
    allowed = (
        f"a document may take {max_source} and {max_target}, tensors: "
        f"{dict(capacity.tensors) or 'none'}"
    )
    message = f'none of the {len(documents)} documents of task "{task}" fits a pack'
    return LoaderError.of("T0602", message, f"{shortest}\n{allowed}")


def _choose_weights(
    documents: Sequence[Documents], weights: Mapping[str, float] | None
) -> list[float]:
    names = [each.template.task for each in documents]
    if weights is None:
        return [len(each) / each.template.num_templates for each in documents]
    problems = [
        Problem("T0606", f'a weight is given for task "{name}", which is not here', help_)
        for name in weights
        if name not in names and (help_ := suggest(name, names))
    ]
    problems += [
        Problem("T0606", f'task "{name}" needs a positive weight, got {weights.get(name)}')
        for name in dict.fromkeys(names)
        if not 0 < (weights.get(name) or 0) < float("inf")
    ]
    if problems:
        raise LoaderError(*problems)
    return [weights[t.task] / t.num_templates for each in documents for t in [each.template]]


def _digest(documents: Documents) -> str:
    """Return a digest of all that a template brings to the stream."""
    digest = xxhash.xxh3_128(repr(documents.template).encode())
    lengths = (documents.source_lengths, documents.target_lengths)
    for array in (documents.rows, *lengths, *documents.tensors.values()):
        digest.update(array.tobytes())
    return digest.hexdigest()


__all__ = ["Loader", "LoaderConfig", "to_torch"]
