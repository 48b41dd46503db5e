"""What can be wrong, said so that a person can mend it.

A *problem* is one thing that is wrong: a code, a message, the place, and what to do. An error carries one or
more problems, because all problems of a step are collected and shown together.

TaskloomError
├── InstructionError    the text of an instruction
├── PlanError           the graph made from it
│   ├── TypeMismatchError   the two ends of an edge carry different types
│   └── UnknownOpError  no op of this environment has the name that is asked for
├── OpError             an op was given parameters or values that it refuses, on whatever row
│   ├── RowError        one row of a source cannot be computed
│   │   └── RowErrors   some rows of one call cannot; the op names them by their place in it
│   └── WorkerDiedError a worker process ended in the middle of a call
├── MissingExtraError   an optional dependency is not installed
├── SourceError         rows cannot be read
├── StoreError          a store is missing, stale, damaged or full
├── LoaderError         an epoch cannot be planned or resumed
├── CheckpointError     a model or run directory cannot be used
├── TrainingError       a training run cannot go on
└── ProjectError        a project file

Codes are ``T`` and four digits: 01 instruction, 02 plan, 03 row and op, 04 source, 05 store, 06 loader,
07 checkpoint and training, 08 project, 09 extras. Each has a page in docs/errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final, Literal, Self

from .render.printable import measure

MANY_INSTRUCTIONS: Final = 8
"""Instructions that one problem shows in full; of more it shows `FEW_INSTRUCTIONS` and counts the rest."""

FEW_INSTRUCTIONS: Final = 3


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Half-open range of characters in one instruction's text."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A span of one instruction.

    Attributes:
        label: Task and number of the template, such as ``"caption:1"``.
        text: The whole instruction.
        span: The part that is meant.
    """

    label: str
    text: str
    span: Span

    def __str__(self) -> str:
        before = measure(self.text[: self.span.start])
        width = max(1, measure(self.text[self.span.start : self.span.stop]))
        return f"  --> {self.label}\n   | {self.text}\n   | {' ' * before}{'^' * width}"

    def to_dict(self) -> dict[str, str | int]:
        """Return the site as plain data."""
        start, stop = self.span.start, self.span.stop
        return {"label": self.label, "text": self.text, "start": start, "stop": stop}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        code: Stable code, such as ``"T0103"``.
        message: What is wrong; lower case, no full stop.
        help: What to do about it; several lines are several hints.
        sites: Where it stands in every instruction that is concerned.
        address: Node, such as ``"caption.img/decode"``.
        row: Row id, such as ``"5c1f0a:1499"``.
        column: Column of the source, and a short description of the value.
        severity: Whether it stops the step that finds it.
    """

    code: str
    message: str
    help: str = ""
    sites: tuple[Site, ...] = ()
    address: str = ""
    row: str = ""
    column: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = [f"{k} {v}" for k in ("node", "row", "column") if (v := self._facts[k])]
        lines = [f"{self.severity}[{self.code}]: {self.message}"]
        lines += [f"  {'    '.join(place)}"] if place else []
        lines += self._shown_sites()
        lines += [f"   = {line}" for line in self.help.splitlines()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as plain data, which JSON can hold: its attributes by name, all of its sites."""
        facts: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        return facts | {"sites": [site.to_dict() for site in self.sites]}

    def _shown_sites(self) -> Iterator[str]:
        instructions = list(dict.fromkeys((site.label, site.text) for site in self.sites))
        is_wall = len(instructions) > MANY_INSTRUCTIONS
        shown = set(instructions[:FEW_INSTRUCTIONS] if is_wall else instructions)
        yield from (str(site) for site in self.sites if (site.label, site.text) in shown)
        if is_wall:
            yield f"  --> and {len(instructions) - len(shown):,} more instructions"

    @property
    def _facts(self) -> dict[str, str]:
        return {"node": self.address, "row": self.row, "column": self.column}


class TaskloomError(Exception):
    """Base class of every error that taskloom raises on purpose."""

    def __init__(self, *problems: Problem) -> None:
        # All of it goes to `args`: Dask carries errors between processes, and pickle rebuilds cls(*args).
        super().__init__(*problems)
        if not problems:
            raise TypeError("an error needs at least one problem")
        self.problems = problems

    @classmethod
    def of(cls, code: str, message: str, help: str = "") -> Self:  # noqa: A002 - the word users see
        """Return the error for one problem that has no place in an instruction."""
        return cls(Problem(code, message, help))

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return the problems as plain data, as ``--json`` prints them."""
        return {"error": [problem.to_dict() for problem in self.problems]}

    def at(self, **place: str | tuple[Site, ...]) -> Self:
        """Return the same error with ``address``, ``row``, ``column`` or ``sites`` filled in where empty."""
        return type(self)(*(_fill(problem, place) for problem in self.problems))


class InstructionError(TaskloomError, ValueError):
    """The text of an instruction is malformed."""


class PlanError(TaskloomError, ValueError):
    """No graph can be made of the tasks as they stand."""


class TypeMismatchError(PlanError):
    """The two ends of an edge carry different types."""


class OpError(TaskloomError, ValueError):
    """An op refuses its parameters or its values."""


class RowError(OpError):
    """One row of a source cannot be computed."""


class MissingExtraError(TaskloomError, ImportError):
    """An optional dependency is not installed."""


class SourceError(TaskloomError, ValueError):
    """Rows cannot be read from a source."""


class StoreError(TaskloomError):
    """A store is missing, stale, damaged or full."""


class LoaderError(TaskloomError, ValueError):
    """An epoch cannot be planned or resumed."""


class CheckpointError(TaskloomError):
    """A model or run directory cannot be used."""


class TrainingError(TaskloomError):
    """A training run cannot go on."""


class ProjectError(TaskloomError, ValueError):
    """A project file does not say what to do."""


class TaskloomWarning(UserWarning):
    """Something is understood that should be written in another way; its argument is a `Problem`."""


def suggest(name: str, known: Collection[str]) -> str:
    """Return one line that names the nearest of ``known``, or all of them when none is near."""
    if near := get_close_matches(name.casefold(), {k.casefold(): k for k in known}, n=1):
        return f"did you mean {next(k for k in known if k.casefold() == near[0])}?"
    return f"known: {', '.join(sorted(known))}" if known else "there are none"


_PLAIN: Final = ("code", "message", "help", "address", "row", "column")


def _fill(problem: Problem, place: dict[str, str | tuple[Site, ...]]) -> Problem:
    empty = {key: value for key, value in place.items() if not getattr(problem, key)}
    return replace(problem, **empty)
