"""Where a loader stands, as plain JSON: what its stream is made from, and how far it has come.

The state names everything that the stream is a function of. A loader made from anything else
refuses it, since it would go on with another stream than the one that was begun. Its size does not
grow with the position, nor with the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from ..graph.errors import LoaderError, Problem

# Raised whenever an equal state would give another stream, as after any change to planning.
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task of a stream.

    Attributes:
        name: Name of the task.
        weight: Its relative share of samples.
        num_rows: Rows of one pass.
        digest: Digest of its template, its rows and their lengths.
        count: Samples drawn when the current window began.
    """

    name: str
    weight: float
    num_rows: int
    digest: str
    count: int


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
    step: int
    window: int
    pack: int

    def to_json(self) -> dict[str, Any]:
        """Return the state as data that JSON gives back equal."""
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
            "tasks": [
                {
                    "name": task.name,
                    "weight": task.weight,
                    "rows": task.num_rows,
                    "digest": task.digest,
                    "pass": task.count // task.num_rows,
                    "cursor": task.count % task.num_rows,
                }
                for task in self.tasks
            ],
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
            return cls(
                plan_digest=plain["plan"],
                tasks=tuple(
                    TaskState(
                        name=task["name"],
                        weight=task["weight"],
                        num_rows=task["rows"],
                        digest=task["digest"],
                        count=task["pass"] * task["rows"] + task["cursor"],
                    )
                    for task in plain["tasks"]
                ),
                **{key: plain[key] for key in _SAME_NAME},
            )
        except (KeyError, TypeError) as error:
            raise LoaderError.of("T0607", f"not a loader state: {error!r}") from error

    def check_same_stream(self, other: LoaderState) -> None:
        """Refuse ``other`` as a position of another stream than this one's.

        Raises:
            LoaderError: One problem for each difference (T0603).
        """
        told: list[str] = []
        for name in ("plan_digest", "seed", "packs_per_step", "window_size", "pad_id"):
            told += _tell(name, getattr(other, name), getattr(self, name))
        for name in dict.fromkeys([*other.capacity, *self.capacity]):
            told += _tell(f"capacity {name}", other.capacity.get(name), self.capacity.get(name))
        names = [[task.name for task in state.tasks] for state in (other, self)]
        told += _tell("tasks", *(", ".join(each) for each in names))
        ours = {task.name: task for task in self.tasks}
        for task in other.tasks:
            if task.name in ours:
                told += _tell_task(task, ours[task.name])
        if told:
            help_ = "resume with what the run was begun with, or start a new run"
            raise LoaderError(*(Problem("T0603", line, help_) for line in told))


_SAME_NAME = {field.name for field in fields(LoaderState)} - {"plan_digest", "tasks"}


def _tell_task(was: TaskState, now: TaskState) -> list[str]:
    told = _tell(f'weight of task "{was.name}"', was.weight, now.weight)
    rows = _tell(f'number of rows of task "{was.name}"', was.num_rows, now.num_rows)
    if not rows and was.digest != now.digest:
        what = f'rows, lengths or template of task "{was.name}"'
        rows = [f"cannot resume: {what} are not those of the state"]
    return told + rows


def _tell(what: str, was: object, now: object) -> list[str]:
    if was == now:
        return []
    return [f"cannot resume: {what.replace('_', ' ')} was {was} in the state, is {now} now"]


__all__ = ["LoaderState", "TaskState"]
