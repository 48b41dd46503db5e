"""What is to be written: documents, what each may write and is given, and how it is searched for.

Shape letters: B = documents, P = ids given, R = rows of documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ....graph.errors import PlanError
from ....graph.vocabulary import PAD
from ..automaton import DecodeAutomaton
from .search import Search
from .stack import Stack
from .step import Sources

BLOCK = 16
"""Steps that look back on equally many positions, so that few shapes occur."""

_F = TypeVar("_F", bound=Callable[..., object])


class Compile(Protocol):
    """What compiles functions."""

    def __call__(self, function: _F, /) -> _F:
        """Return what does the same as ``function``."""
        ...


def as_is(function: _F, /) -> _F:
    """Return ``function``: nothing is compiled."""
    return function


class Told(NamedTuple):
    """What rows are told to write next.

    Attributes:
        ids_R: The ids, padding where none is told.
    """

    ids_R: Tensor

    @property
    def is_told_R(self) -> Tensor:
        """Which rows are told."""
        return self.ids_R != PAD

    def obey(
        self, ids_R: Tensor, log_probs_R: Tensor, next_R: Tensor, states_R: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ids that are written, their log probabilities and the states after them.

        Args:
            ids_R: What would be chosen.
            log_probs_R: Log probability of each; what is told is no choice, and has 0.
            next_R: States after it.
            states_R: States before it; what is told leads to no other.
        """
        return (
            self.ids_R.where(self.is_told_R, ids_R),
            log_probs_R.masked_fill(self.is_told_R, 0.0),
            states_R.where(self.is_told_R, next_R),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moment:
    """One step: what follows from the number of ids that were written.

    Attributes:
        index: That number, shape ``(1,)``; a tensor, so that steps are one program.
        told: What rows are told to write next; None where none is.
        fan_out: The most edges of a state that a row may be in, if edges are all that it may write.
        may_be_short: Whether some row may have written fewer ids than it must.
        is_last: Whether nothing is written after it.
    """

    index: Tensor
    told: Told | None
    fan_out: int | None
    may_be_short: bool
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A batch of documents to write for.

    Attributes:
        stack: The decoder, in evaluation mode.
        automaton: What documents may write, on the device of the sources.
        sources: What they are written from.
        roots_B: State that each document starts in; ``FINISHED`` for rows of the batch that hold none.
        max_length: Most ids that are written, those given and the end included; static.
        search: How targets are searched for; its ``max_length`` and ``prefix`` are for the caller to carry out.
        given_BP: Ids that each document begins with, then padding. They are no choice: the automaton begins
            after them, and they are counted in no probability.
        prefix: Ids that every document writes next, as long as they are allowed.
        keys_B: What is drawn for a document follows from its key; its place in the batch by default.
        compile: Compiles a function of a step, the same for the same; nothing is compiled by default.
    """

    stack: Stack
    automaton: DecodeAutomaton
    sources: Sources
    roots_B: Tensor
    max_length: int
    search: Search = field(default_factory=Search)
    given_BP: Tensor | None = None
    prefix: tuple[int, ...] = ()
    keys_B: Tensor | None = None
    compile: Compile = as_is

    def __post_init__(self) -> None:
        """Check that what must be written fits.

        Raises:
            PlanError: A closed language of the automaton needs more than ``max_length`` ids.
        """
        needed = self.automaton.longest + self.num_given
        if self.automaton.longest and needed > self.max_length:
            raise PlanError.of(
                "T0226",
                f"max_length is {self.max_length}, and a closed set needs {needed} ids",
                f"max_length must be at least {needed}",
            )

    @property
    def num_given(self) -> int:
        """``P``."""
        return 0 if self.given_BP is None else self.given_BP.shape[1]

    def moment(self, at: int, num_rows: int) -> Moment:
        """Return the step after ``at`` ids, of ``num_rows`` rows a document."""
        told = fan_out = None
        if self.given_BP is not None and at < self.num_given:
            told = Told(self.given_BP[:, at].long().repeat_interleave(num_rows))
        if self.automaton.is_closed:
            fan_out = self.automaton.fan_out_of(max(0, at - self.num_given), at)
        return Moment(
            index=torch.full((1,), at, device=self.roots_B.device),
            told=told,
            fan_out=fan_out,
            may_be_short=at < self.search.min_length + self.num_given,
            is_last=at == self.max_length - 1,
        )

    def compile_choice(self, function: _F) -> _F:
        """Return ``function``, which chooses what is written, compiled where every id may be.

        Steps through a closed set are of many shapes, and cost little.
        """
        return function if self.automaton.is_closed else self.compile(function)

    def num_seen(self, at: int) -> int:
        """Return how many positions a step looks back on after ``at`` ids: few numbers; compiled, one."""
        whole = (at // BLOCK + 1) * BLOCK if self.compile is as_is else self.max_length
        return min(self.max_length, whole)

    def begins(self, num_rows: int) -> Tensor:
        """Return how many ids each of ``num_rows`` rows a document is given."""
        if self.given_BP is None:
            return torch.zeros_like(self.roots_B.repeat_interleave(num_rows))
        return (self.given_BP != PAD).sum(1).repeat_interleave(num_rows)
