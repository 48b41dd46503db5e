"""What is to be written: documents, what each may write and is given, and how it is searched for.

Shape letters: B = documents, P = ids given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....graph.errors import PlanError
from ....graph.vocabulary import PAD
from ..automaton import DecodeAutomaton
from .search import Search
from .stack import Stack
from .step import Sources


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

    def fan_out(self, at: int) -> int:
        """Return the most edges of a state that a document may be in after ``at`` ids."""
        return self.automaton.fan_out_of(max(0, at - self.num_given), at)

    def told(self, at: int, num_rows: int) -> Tensor | None:
        """Return the id that each row is told to write next, padding where none is."""
        if self.given_BP is None or at >= self.num_given:
            return None
        return self.given_BP[:, at].long().repeat_interleave(num_rows)

    def begins(self, num_rows: int) -> Tensor:
        """Return how many ids each of ``num_rows`` rows a document is given."""
        if self.given_BP is None:
            return torch.zeros_like(self.roots_B.repeat_interleave(num_rows))
        return (self.given_BP != PAD).sum(1).repeat_interleave(num_rows)
