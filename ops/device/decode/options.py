"""What each row may write next, with log probabilities.

Where all that can be written is a closed set, the options of a row are the few edges of its state: scores are
taken of the ids of the set alone, and gathered for each edge, at a cost that does not depend on the
vocabulary. Otherwise every id is an option, and those that the state does not allow have no probability.

Shape letters: R = rows, X = options, V = ids, U = ids of the closed set, C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....graph.vocabulary import EOS, PAD
from ..automaton import DecodeAutomaton
from ..language import FINISHED
from .stack import Stack
from .task import Task


class Options(NamedTuple):
    """What each row may write next.

    Attributes:
        log_probs_RX: Log probability of each option; minus infinity for those that are none.
        ids_RX: Its id; where there is none of this, options are ids in order.
        edges_RX: Its edge; where there is none of this, ids are looked up.
    """

    log_probs_RX: Tensor
    ids_RX: Tensor | None = None
    edges_RX: Tensor | None = None

    def where_id(self, id_: int | Tensor) -> Tensor:
        """Return which options have ``id_``, one or one for each row; shape ``(R, X)`` or ``(1, X)``."""
        wanted = id_[:, None] if isinstance(id_, Tensor) else id_
        if self.ids_RX is not None:
            return self.ids_RX == wanted
        num_ids = self.log_probs_RX.shape[1]
        return torch.arange(num_ids, device=self.log_probs_RX.device)[None] == wanted

    def end(self) -> tuple[Tensor, Tensor]:
        """Return log probabilities with the end alone left, and whether there is one, shape ``(R, 1)``."""
        ended_RX = self.log_probs_RX.masked_fill(~self.where_id(EOS), -torch.inf)
        return ended_RX, (ended_RX > -torch.inf).any(1, keepdim=True)

    def pick_ids(self, rows_N: Tensor, options_N: Tensor) -> Tensor:
        """Return the ids of some options of some rows."""
        return options_N if self.ids_RX is None else self.ids_RX[rows_N, options_N]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chooser:
    """Weighs what may be written.

    Attributes:
        automaton: What rows may write.
        temperature: What scores are divided by; 0 counts as 1 here.
        head_UC: The part of the table that scores the ids of a closed set; None where ids are free.
    """

    automaton: DecodeAutomaton
    temperature: float
    head_UC: Tensor | None

    @classmethod
    def of(cls, automaton: DecodeAutomaton, stack: Stack, temperature: float) -> Chooser:
        """Return what weighs the scores of ``stack``."""
        head_UC = stack.weight_VC[automaton.used_U] if automaton.is_closed else None
        return cls(automaton=automaton, temperature=temperature, head_UC=head_UC)

    def weigh(self, stack: Stack, hidden_RC: Tensor, states_R: Tensor) -> Options:
        """Return the options of rows in ``states_R``; of NaN as a score comes NaN as a probability."""
        if self.head_UC is None:
            scores_RV = self._temper(stack.score(hidden_RC))
            is_allowed_RV = self.automaton.is_allowed(states_R, scores_RV.shape[1])
            log_probs_RV = scores_RV.masked_fill_(~is_allowed_RV, -torch.inf).log_softmax(-1)
            # Once more: a NaN makes all of its row NaN, and what is not allowed must not win by it.
            log_probs_RV.masked_fill_(~is_allowed_RV, -torch.inf)
            if self.automaton.pads:
                # Padding may be in a range, and is nothing that a text has in it.
                log_probs_RV[:, PAD] = log_probs_RV[:, PAD].where(states_R == FINISHED, -torch.inf)
            return Options(log_probs_RV)
        scores_RU = self._temper(F.linear(hidden_RC, self.head_UC))
        edges_RX, is_edge_RX = self.automaton.edges(states_R)
        scores_RX = scores_RU.gather(1, self.automaton.columns_E[edges_RX])
        log_probs_RX = scores_RX.masked_fill_(~is_edge_RX, -torch.inf).log_softmax(-1)
        log_probs_RX.masked_fill_(~is_edge_RX, -torch.inf)
        ids_RX = self.automaton.edge_ids_E[edges_RX].where(is_edge_RX, -1)
        return Options(log_probs_RX, ids_RX, edges_RX)

    def follow(
        self, options: Options, states_N: Tensor, rows_N: Tensor, options_N: Tensor
    ) -> Tensor:
        """Return the states after option ``options_N`` of row ``rows_N``, which is in ``states_N``."""
        if options.edges_RX is None:
            return self.automaton.advance(states_N, options_N)
        return self.automaton.edge_states_E[options.edges_RX[rows_N, options_N]]

    def _temper(self, scores: Tensor) -> Tensor:
        scores = scores.float()
        if self.temperature not in (0, 1):
            scores = scores / self.temperature
        # An infinite score would leave no probability to be told; NaN stays, and tells.
        return scores.clamp(-_MOST, _MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a search does not want, whatever its probability.

    Probabilities stay what they are among all that is allowed. A limit that would leave a row nothing to
    write does not count there.

    Attributes:
        max_length: Ids that are written at most; the last is the end.
        min_length: Ids before the end, at least.
        no_repeat_ngram: Length of runs of ids that do not come twice; 0 for none.
        prefix_P: Ids that a target begins with, then -1.
    """

    max_length: int
    min_length: int
    no_repeat_ngram: int
    prefix_P: Tensor

    @classmethod
    def of(cls, task: Task) -> Limits:
        """Return the limits of a search."""
        return cls(
            max_length=task.max_length,
            min_length=task.search.min_length,
            no_repeat_ngram=task.search.no_repeat_ngram,
            prefix_P=torch.tensor((*task.prefix, -1), device=task.roots_B.device),
        )

    def apply(self, options: Options, tokens_RT: Tensor, at: int, begins_R: Tensor) -> Options:
        """Return the options that are left.

        Args:
            options: What is allowed.
            tokens_RT: What was written, the begin of sequence first.
            at: Ids that were written.
            begins_R: Ids that each row was given.
        """
        left = options
        if len(self.prefix_P) > 1:
            place_R = (at - begins_R).clamp(0, len(self.prefix_P) - 1)
            wanted_R = self.prefix_P[place_R]
            left = _drop(left, (wanted_R >= 0)[:, None] & ~left.where_id(wanted_R))
        if self.no_repeat_ngram:
            repeated = _find_repeated(left, tokens_RT[:, : at + 1], self.no_repeat_ngram)
            left = _drop(left, repeated)
        if self.min_length:
            is_short_R1 = ((at - begins_R) < self.min_length)[:, None]
            left = _drop(left, left.where_id(EOS) & is_short_R1)
        if at == self.max_length - 1:
            # The end goes before all other limits: they are looked at again only where it is not allowed.
            ended_RX, can_end_R1 = options.end()
            left = left._replace(log_probs_RX=ended_RX.where(can_end_R1, left.log_probs_RX))
        return left


def _drop(options: Options, is_unwanted: Tensor) -> Options:
    left_RX = options.log_probs_RX.masked_fill(is_unwanted, -torch.inf)
    has_any_R1 = (left_RX > -torch.inf).any(1, keepdim=True)
    return options._replace(log_probs_RX=left_RX.where(has_any_R1, options.log_probs_RX))


def _find_repeated(options: Options, tokens_RT: Tensor, length: int) -> Tensor:
    """Return which options would end a run of ``length`` ids that was written before."""
    num_rows, num_tokens = tokens_RT.shape
    num_ids = options.log_probs_RX.shape[1] if options.ids_RX is None else None
    if num_tokens < length:
        return torch.zeros_like(options.log_probs_RX, dtype=torch.bool)
    runs_RWN = tokens_RT.unfold(1, length, 1)
    last_RN = tokens_RT[:, num_tokens - length + 1 :]
    is_same_RW = (runs_RWN[..., :-1] == last_RN[:, None]).all(-1)
    ends_RW = runs_RWN[..., -1]
    if num_ids is None:
        assert options.ids_RX is not None
        is_end_RXW = options.ids_RX[:, :, None] == ends_RW[:, None]
        return (is_end_RXW & is_same_RW[:, None]).any(-1)
    # Runs that are not the last one point past the last id, at a column that is cut off.
    marked = torch.zeros(num_rows, num_ids + 1, dtype=torch.bool, device=tokens_RT.device)
    return marked.scatter(1, ends_RW.where(is_same_RW, num_ids), value=True)[:, :-1]


_MOST = -torch.finfo(torch.float32).min / 4
