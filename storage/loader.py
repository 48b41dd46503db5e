"""The loader: an endless, shuffled, mixed and packed stream of steps, resumable exactly.

A *step* is a fixed number of packs, whatever ranks and micro-batches they are divided into. The
stream is planned from lengths, a window at a time, and filled from columns, a step at a time, in
one background thread. It is a pure function of the plan digest, the settings, the rows and their
lengths; so the state is a position and resuming costs the planning of one window. Every rank plans the
whole stream and fills its own share of each step, so that the state is the same on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any, Self, TypeVar

import torch

from ..graph.errors import LoaderError, Problem
from .blend import Blend
from .capacity import Capacity
from .effort import Effort
from .fill import PackFiller
from .measured import Measured
from .pack import Pack
from .prefetch import Prefetcher
from .report import StreamReport
from .resume import LoaderState, Segment, TaskState
from .step_planner import Place, StepPlanner
from .template import Columns, Template
from .tile import Ints

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How a stream is made.

    Attributes:
        capacity: What a pack holds.
        weights: Relative share of samples of each task, also as a function of the step; by default as
            many as it has rows.
        seed: Decides every order.
        packs_per_step: Packs in one step, at least 1.
        window_size: Most samples that are packed together.
        prefetch: Steps to stay ahead in the background; 0 for no thread. Changes no result.
        patience_s: Seconds to wait for a step that is made in the background before it is given up.
        pad_id: Id at positions of no document.
    """

    capacity: Capacity
    weights: Mapping[str, float] | Blend | None = None
    seed: int = 0
    packs_per_step: int = 1
    window_size: int = 4096
    prefetch: int = 4
    patience_s: float = 600.0
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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan the stream.

        Args:
            templates: What documents are made of; each row of a task is seen with one of its
                templates in a pass. Their order numbers them.
            rows: Global rows of each task that may be seen, valid in every column of the task.
            columns: Every column that the templates name.
            config: How the stream is made.
            plan_digest: Digest of the plan that the columns come from.
            state: Where to go on, as `state` gave it, on any rank. Where it is of other weights or tasks, a
                new segment of the stream begins, in which every task goes on where it was.
            rank: Which share of each step to fill, from 0.
            world_size: Into how many shares steps are divided.

        Raises:
            LoaderError: A task has no rows (T0601), none that fits a pack (T0602), or rows without
                a value (T0604); columns do not go together (T0605); the settings make no sense
                (T0606); the state is none (T0607) or is of a stream that cannot go on so (T0603). All
                problems are named together.
        """
        measured = Measured.of(templates, rows, columns, config.capacity)
        blend = measured.blend(config.weights)
        self._share = _share_of(config.packs_per_step, rank, world_size)
        self.config = config
        self.effort = Effort()
        self._filler = PackFiller(
            templates, columns, config.capacity, config.pad_id, self.effort.gathering
        )
        fresh = LoaderState(
            plan_digest=plan_digest,
            seed=config.seed,
            packs_per_step=config.packs_per_step,
            window_size=config.window_size,
            pad_id=config.pad_id,
            capacity=asdict(config.capacity),
            tasks=tuple(TaskState(name=n, digest=d) for n, d in measured.digests().items()),
            segments=(Segment(step=0, mixture=measured.mixture_digest(blend)),),
        )
        self._state = fresh if state is None else fresh.go_on(LoaderState.from_json(state))
        self._planner = StepPlanner(
            measured.documents,
            config.capacity,
            blend,
            seed=config.seed,
            packs_per_step=config.packs_per_step,
            window_size=config.window_size,
            first_step=self._state.segments[-1].step,
        )
        self.report = StreamReport.of(
            self._planner.first_window.packs,
            measured.documents,
            measured.num_left_out,
            config.capacity,
        )
        self._blend = blend
        self._place: Place | None = None
        self._prefetcher: Prefetcher[tuple[tuple[Pack, ...], Place]] | None = None

    def __iter__(self) -> Iterator[tuple[Pack, ...]]:
        self.close()
        steps = self._steps()
        if not self.config.prefetch:
            yield from self._hand_out(steps)
            return
        with Prefetcher(
            steps,
            self.config.prefetch,
            patience_s=self.config.patience_s,
            tell=self._filler.tell,
        ) as self._prefetcher:
            yield from self._hand_out(self._prefetcher)

    def _hand_out(
        self, steps: Iterator[tuple[tuple[Pack, ...], Place]]
    ) -> Iterator[tuple[Pack, ...]]:
        for packs, self._place in steps:
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
        return self._now().to_json()

    @property
    def num_seen(self) -> dict[str, int]:
        """Samples of each task that have been handed out since the run began."""
        return {task.name: task.num_seen for task in self._now().tasks}

    def header(
        self, num_steps: int, *, source_flops: float = 1.0, target_flops: float = 1.0
    ) -> list[str]:
        """Return what a run of ``num_steps`` will see in all: a sentence per task, then the fill.

        Args:
            num_steps: Steps of the run, those that were taken among them.
            source_flops: Linear FLOPs of the encoder per source position, in any unit.
            target_flops: Linear FLOPs of the decoder per target position, in the same unit.
        """
        now, seen = self._now(), self.num_seen
        steps = range(now.step, num_steps)
        tasks = self.report.describe_tasks(seen, self._blend, steps, self.config.packs_per_step)
        return [
            *now.describe_segments(),
            *tasks,
            self.report.describe_fill(source_flops, target_flops),
        ]

    def _now(self) -> LoaderState:
        if self._place is None:
            return self._state
        step, window, pack = self._place
        seen = window.find_seen(pack)
        return self._state.at(window.before, seen, step=step, window=window.number, pack=pack)

    def _steps(self) -> Iterator[tuple[tuple[Pack, ...], Place]]:
        now = self._now()
        plans = self._planner.plan(now.position, step=now.step, window=now.window, pack=now.pack)
        num_steps = -(-self._filler.num_together // len(self._share))
        while True:
            began = time.perf_counter()
            steps = [
                (step[self._share.start : self._share.stop], place)
                for step, place in islice(plans, num_steps)
            ]
            filled = self._filler.fill([plan for step, _ in steps for plan in step])
            self.effort.packs += len(filled)
            self.effort.seconds += time.perf_counter() - began
            packs = iter(filled)
            for step, after in steps:
                yield tuple(islice(packs, len(step))), after


def split_step(packs: Sequence[T], num_parts: int) -> list[tuple[T, ...]]:
    """Return the packs of a step, or of a rank's share of it, as ``num_parts`` micro-batches of one size.

    Raises:
        LoaderError: They cannot be divided so (T0606).
    """
    shares = (_share_of(len(packs), part, num_parts) for part in range(num_parts))
    return [tuple(packs[share.start : share.stop]) for share in shares]


def _share_of(num_packs: int, rank: int, world_size: int) -> range:
    """Return which packs of a step are those of ``rank``."""
    if world_size < 1 or num_packs % world_size:
        message = f"{num_packs} packs cannot be divided into {world_size} equal shares"
        divisors = [n for n in range(1, num_packs + 1) if num_packs % n == 0]
        help_ = f"they can be divided into {', '.join(map(str, divisors))}"
        raise LoaderError.of("T0606", message, help_)
    if not 0 <= rank < world_size:
        message = f"there is no rank {rank} among {world_size}, which count from 0"
        raise LoaderError.of("T0606", message)
    size = num_packs // world_size
    return range(rank * size, (rank + 1) * size)


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


__all__ = ["Loader", "LoaderConfig", "split_step", "to_torch"]
