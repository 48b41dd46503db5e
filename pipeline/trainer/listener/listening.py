"""What a listener hears of a run, and what becomes of one that fails.

A listener watches and changes nothing. One that raises is told of once and hears no more; the run goes on,
unless that listener is needed, as its log is.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....graph.errors import Problem, TaskloomWarning


class Listener:
    """Hears of a run; each method does nothing, so that a listener has those that it cares for.

    Numbers are those of ``log.jsonl``, which docs/watching.md describes.

    Attributes:
        is_needed: Whether what it raises ends the run.
    """

    is_needed: ClassVar[bool] = False

    def began(self, run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Hear that a run begins, or goes on.

        Args:
            run: Its directory.
            header: What it learns from and with, in sentences.
            facts: The step it is at, its settings and the sizes of its model.
        """

    def logged(self, line: Mapping[str, Any]) -> None:
        """Hear of some steps: a line of the log."""

    def evaluated(self, line: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """Hear of an evaluation: its line of the log, and some rows with what the model answered."""

    def saved(self, path: Path, step: int) -> None:
        """Hear that a checkpoint was asked for."""

    def ended(self, outcome: str) -> None:
        """Hear that the run ends: ``"done"``, ``"stopped"``, ``"interrupted"`` or what went wrong."""


@dataclass(slots=True)
class Audience(Listener):
    """Listeners as one, told in their order; one that raises is left out, or ends the run if it is needed."""

    listeners: list[Listener]

    def began(self, run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Tell all of them; who comes after one that ends the run hears nothing of it, nor how it ends."""
        waiting, self.listeners = self.listeners, []
        for listener in waiting:
            self.listeners.append(listener)
            self._tell_one(listener, "began", run, header, facts)

    def logged(self, line: Mapping[str, Any]) -> None:
        """Tell all of them."""
        self._tell("logged", line)

    def evaluated(self, line: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """Tell all of them."""
        self._tell("evaluated", line, samples)

    def saved(self, path: Path, step: int) -> None:
        """Tell all of them."""
        self._tell("saved", path, step)

    def ended(self, outcome: str) -> None:
        """Tell all of them."""
        self._tell("ended", outcome)

    @contextmanager
    def until_the_end(self) -> Generator[None]:
        """Tell all of them how what is within ends, unless they were told already."""
        try:
            yield
        except KeyboardInterrupt:
            self.ended("interrupted")
            raise
        except BaseException as error:
            self.ended(str(error) or type(error).__name__)
            raise

    def _tell(self, what: str, *words: Any) -> None:
        for listener in [*self.listeners]:
            self._tell_one(listener, what, *words)

    def _tell_one(self, listener: Listener, what: str, *words: Any) -> None:
        try:
            getattr(listener, what)(*words)
        except Exception as error:
            if listener.is_needed:
                raise
            self.listeners.remove(listener)
            warnings.warn(TaskloomWarning(_say_failed(listener, what, error)), stacklevel=3)


def _say_failed(listener: Listener, what: str, error: Exception) -> Problem:
    name = type(listener).__name__
    message = f"{name} hears no more of the run: {type(error).__name__} in {what}: {error}"
    return Problem("T0783", message, "the run goes on, and its log is whole", severity="warning")
