"""Writing targets: one token per document and step, greedily, within what an automaton allows.

The encoder runs once per pack. Keys and values of the sources are computed once, those of the
targets are kept in caches of static size, so every step is the same program. The host looks at the
device once a step, to see whether all documents are finished.

Shape letters: M = tokens of the source stream, C = channels, B = documents, L = longest target.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...graph.errors import PlanError
from ...graph.vocabulary import BOS, PAD
from .automaton import Choice, DecodeAutomaton
from .language import FINISHED


class TargetWriter(Protocol):
    """What writes targets token by token, such as `Decoder`."""

    def begin(
        self, memory_MC: Tensor, keys_2B: Tensor, *, longest_source: int, max_length: int
    ) -> Any:
        """Return what is kept from token to token."""
        ...

    def step(self, hidden_BC: Tensor, index: Tensor, cache: Any) -> Tensor:
        """Return the states after one more token per document."""
        ...


class IdTable(Protocol):
    """What embeds ids and scores them, such as `TokenTable`."""

    def embed(self, ids_N: Tensor) -> Tensor:
        """Return the vectors of ids."""
        ...

    def score(self, hidden_NC: Tensor) -> Tensor:
        """Return the score of every id for each state."""
        ...


class Generated(NamedTuple):
    """What was written.

    Attributes:
        ids_BL: Ids, the end of sequence included, then padding.
        log_probs_B: Log probability of the ids, each among those that were allowed.
        is_finished_B: Whether the end of sequence was reached within ``L`` ids.
    """

    ids_BL: Tensor
    log_probs_B: Tensor
    is_finished_B: Tensor


def write_token(
    decoder: TargetWriter,
    table: IdTable,
    automaton: DecodeAutomaton,
    last: Choice,
    index: Tensor,
    cache: Any,
) -> Choice:
    """Return the choice after ``last``, which stands at ``index``; one graph for all steps."""
    hidden_BC = decoder.step(table.embed(last.ids_B), index, cache)
    return automaton.choose(last.states_B, table.score(hidden_BC))


@torch.no_grad()
def generate(  # noqa: PLR0913 - what a batch is, and what it may write
    decoder: TargetWriter,
    table: IdTable,
    automaton: DecodeAutomaton,
    *,
    memory_MC: Tensor,
    source_keys_2B: Tensor,
    roots_B: Tensor,
    longest_source: int,
    max_length: int,
    given_BP: Tensor | None = None,
) -> Generated:
    """Write one target per document.

    Args:
        decoder: In evaluation mode.
        table: The table that embeds and scores.
        automaton: What documents may write, on the device of ``memory_MC``.
        memory_MC: The encoder's stream.
        source_keys_2B: First token of each document's source, and one past the last; both 0 for
            rows of the batch that hold no document.
        roots_B: State that each document starts in; ``FINISHED`` for rows that hold none.
        longest_source: Most tokens of a source; static. A longer one gives NaN as probability.
        max_length: ``L``, most ids that are written; static.
        given_BP: Ids that each document begins with, then padding. They are no choice: the automaton begins
            after them, and they are counted in ``max_length`` and in no probability.

    Raises:
        PlanError: A closed language of the automaton needs more than ``max_length`` ids.
    """
    num_given = 0 if given_BP is None else given_BP.shape[1]
    if (needed := automaton.longest + num_given) > max_length and automaton.longest:
        raise PlanError.of(
            "T0226",
            f"max_length is {max_length}, and a closed set needs {needed} ids",
            f"max_length must be at least {needed}",
        )
    cache = decoder.begin(
        memory_MC, source_keys_2B, longest_source=longest_source, max_length=max_length
    )
    states_B = roots_B.long()
    log_probs_B = torch.zeros(states_B.shape, device=states_B.device)
    last = Choice(torch.full_like(states_B, BOS), log_probs_B, states_B)
    ids_BL = states_B.new_full((len(states_B), max_length), PAD)
    for index in torch.arange(max_length, device=states_B.device).split(1):
        if bool((last.states_B == FINISHED).all()):
            break
        before = last
        last = write_token(decoder, table, automaton, last, index, cache)
        if given_BP is not None and int(index) < num_given:
            last = _tell(given_BP[:, int(index)], last, before)
        ids_BL.index_copy_(1, index, last.ids_B[:, None])
        log_probs_B = log_probs_B + last.log_probs_B
    return Generated(ids_BL, log_probs_B, last.states_B == FINISHED)


def _tell(given_B: Tensor, chosen: Choice, before: Choice) -> Choice:
    """Return ``chosen`` with the ids that are given in place of choices, where there are some."""
    is_given_B = given_B != PAD
    return Choice(
        given_B.where(is_given_B, chosen.ids_B),
        chosen.log_probs_B.masked_fill(is_given_B, 0.0),
        before.states_B.where(is_given_B, chosen.states_B),
    )
