"""Where a loader stands, as plain JSON: what its stream is made from, and how far it has come.

The state names everything that the stream is a function of, and it holds for every rank. What cannot go on
is refused: other rows of a task, another seed, another shape of packs. Another mixture can, with other
weights, more tasks or fewer: a new *segment* of the stream begins, in which every task goes on where it was.
A task that is taken out keeps its place, should it come back.

The state's size does not grow with the position, nor with the number of rows: what it says of one task
takes at most 32 bytes beside its name, and which samples of the current window have been seen takes a bit each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

import numpy as np

from ..graph.errors import LoaderError, Problem
from .mask_code import read_masks, write_masks
from .mix import UNIT
from .position import Mask, Position, pass_over
from .tile import Ints

# Raised whenever an equal state would give another stream, as after any change to planning.
_FORMAT: Final = 3
_DIGITS: Final = 8
_LISTED_SEGMENTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task of a stream.

    Attributes:
        name: Name of the task.
        digest: Digest of its templates, its rows and their lengths, in hexadecimal digits.
        count: Its first turn that no window had had when the current window began.
        owed: What it was owed then, in `mix.UNIT`.
        left: Its turns before ``count`` that were left then, ascending.
        seen: Which of its samples in the current window have been handed out.
    """

    name: str
    digest: str
    count: int = 0
    owed: int = 0
    left: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    seen: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))

    @property
    def num_seen(self) -> int:
        """Samples of it that have been handed out since the run began."""
        return self.count - len(self.left) + int(self.seen.sum())

    def pass_over(self) -> TaskState:
        """Return it where no window has begun: what was handed out is gone, what was not is left."""
        count, left = pass_over(self.count, self.left, self.seen)
        return TaskState(name=self.name, digest=self.digest, count=count, left=left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a stream in which the mixture is the same.

    Attributes:
        step: Steps taken when it began.
        mixture: Digest of its tasks and their weights.
    """

    step: int
    mixture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """A position in a stream.

    Attributes:
        plan_digest: Digest of the plan that the columns come from.
        seed: Seed of every order.
        packs_per_step: Packs in one step.
        window_size: Most samples of a window.
        pad_id: Id at positions of no document.
        capacity: What a pack holds.
        tasks: Tasks in the order of their numbers.
        away: Tasks of earlier segments that this one lacks.
        segments: The last few segments; the last of them is the current one.
        step: Steps taken.
        window: Number of the current window.
        pack: Packs of the current window that have been used.
    """

    plan_digest: str
    seed: int
    packs_per_step: int
    window_size: int
    pad_id: int
    capacity: Mapping[str, Any]
    tasks: tuple[TaskState, ...]
    away: tuple[TaskState, ...] = ()
    segments: tuple[Segment, ...]
    step: int = 0
    window: int = 0
    pack: int = 0

    @property
    def position(self) -> Position:
        """The position where the current window begins."""
        return Position(
            counts=np.array([task.count for task in self.tasks], np.int64),
            owed=np.array([task.owed for task in self.tasks], np.int64),
            left=tuple(task.left for task in self.tasks),
        )

    def at(self, position: Position, seen: Sequence[Mask], **changes: int) -> LoaderState:
        """Return the state in a window that begins at ``position``, of which ``seen`` was handed out."""
        tasks = tuple(
            replace(task, count=count, owed=owed, left=left, seen=mask)
            for task, count, owed, left, mask in zip(
                self.tasks,
                position.counts.tolist(),
                position.owed.tolist(),
                position.left,
                seen,
                strict=True,
            )
        )
        return replace(self, tasks=tasks, **changes)

    def describe_segments(self) -> list[str]:
        """Return a sentence on the changes of the mixture, if there were any."""
        if len(self.segments) == 1:
            return []
        steps = ", ".join(f"{each.step:,}" for each in self.segments[1:])
        away = f"; no longer in it: {', '.join(t.name for t in self.away)}" if self.away else ""
        return [f"the mixture was changed at step {steps}{away}"]

    def to_json(self) -> dict[str, Any]:
        """Return the state as data that JSON gives back equal."""
        everyone = (*self.tasks, *self.away)
        return {
            "format": _FORMAT,
            "plan": self.plan_digest,
            "seed": self.seed,
            "packs_per_step": self.packs_per_step,
            "window_size": self.window_size,
            "pad_id": self.pad_id,
            "capacity": dict(self.capacity),
            "step": self.step,
            "window": self.window,
            "pack": self.pack,
            "segments": [[each.step, each.mixture] for each in self.segments],
            "tasks": [task.name for task in everyone],
            "away": len(self.away),
            "counts": [task.count for task in everyone],
            "owed": "".join(f"{task.owed + UNIT:0{_DIGITS}x}" for task in everyone),
            "digests": "".join(task.digest for task in everyone),
            "left": write_masks([_mark_left(task) for task in everyone]),
            "seen": write_masks([task.seen for task in everyone]),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the state that `to_json` wrote.

        Raises:
            LoaderError: It is of another format, or not a state (T0607).
        """
        if plain.get("format") != _FORMAT:
            message = (
                f"loader state of format {plain.get('format')!r}, this version reads {_FORMAT}"
            )
            raise LoaderError.of("T0607", message, "resume with the version that wrote it")
        try:
            everyone = _read_tasks(plain)
            num_tasks = len(everyone) - plain["away"]
            return cls(
                plan_digest=plain["plan"],
                tasks=everyone[:num_tasks],
                away=everyone[num_tasks:],
                segments=tuple(Segment(step=s, mixture=m) for s, m in plain["segments"]),
                **{key: plain[key] for key in _SAME_NAME},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LoaderError.of("T0607", f"not a loader state: {error!r}") from error

    def go_on(self, was: LoaderState) -> LoaderState:
        """Return the state where a run that stood at ``was`` goes on with the stream of this one.

        Where the mixture is the same that is ``was`` itself, and else the beginning of a new segment.

        Raises:
            LoaderError: One problem for each difference that forbids it (T0603).
        """
        self._refuse_other_stream(was)
        if self.segments[-1].mixture == was.segments[-1].mixture:
            return was
        known = {task.name: task.pass_over() for task in (*was.tasks, *was.away)}
        new = Segment(step=was.step, mixture=self.segments[-1].mixture)
        names = {task.name for task in self.tasks}
        return replace(
            self,
            tasks=tuple(known.get(task.name, task) for task in self.tasks),
            away=tuple(task for name, task in known.items() if name not in names),
            segments=(*was.segments, new)[-_LISTED_SEGMENTS:],
            step=was.step,
            window=was.window + 1,
        )

    def _refuse_other_stream(self, was: LoaderState) -> None:
        told: list[str] = []
        for name in ("seed", "packs_per_step", "window_size", "pad_id"):
            told += _tell(name, getattr(was, name), getattr(self, name))
        for name in dict.fromkeys([*was.capacity, *self.capacity]):
            told += _tell(f"capacity {name}", was.capacity.get(name), self.capacity.get(name))
        if [task.name for task in self.tasks] == [task.name for task in was.tasks]:
            told += _tell("plan_digest", was.plan_digest, self.plan_digest)
        ours = {task.name: task.digest for task in self.tasks}
        told += [
            f'cannot resume: rows, lengths or template of task "{task.name}" are not those of the state'
            for task in (*was.tasks, *was.away)
            if ours.get(task.name, task.digest) != task.digest
        ]
        if told:
            help_ = "resume with what the run was begun with, or start a new run"
            raise LoaderError(*(Problem("T0603", line, help_) for line in told))


_SAME_NAME = {each.name for each in fields(LoaderState)} - {
    "plan_digest",
    "tasks",
    "away",
    "segments",
}


def _read_tasks(plain: Mapping[str, Any]) -> tuple[TaskState, ...]:
    names: list[str] = plain["tasks"]
    lefts, masks = (read_masks(plain[name], len(names)) for name in ("left", "seen"))
    owed, digests = (
        [text[at : at + _DIGITS] for at in range(0, len(text), _DIGITS)]
        for text in (plain["owed"], plain["digests"])
    )
    return tuple(
        TaskState(
            name=name,
            digest=digest,
            count=count,
            owed=int(one, 16) - UNIT,
            left=count - len(left) + np.flatnonzero(left),
            seen=seen,
        )
        for name, digest, count, one, left, seen in zip(
            names, digests, plain["counts"], owed, lefts, masks, strict=True
        )
    )


def _mark_left(task: TaskState) -> Mask:
    """Return which turns are left, from the first of them to the count."""
    if not len(task.left):
        return np.zeros(0, np.bool_)
    marks = np.zeros(task.count - int(task.left[0]), np.bool_)
    marks[task.left - task.left[0]] = True
    return marks


def _tell(what: str, was: object, now: object) -> list[str]:
    if was == now:
        return []
    return [f"cannot resume: {what.replace('_', ' ')} was {was} in the state, is {now} now"]


__all__ = ["LoaderState", "Segment", "TaskState"]
