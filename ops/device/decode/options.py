"""What each row may write next, with log probabilities.

Where all that can be written is a closed set, the options of a row are the few edges of its state: scores are
taken of the ids of the set alone, and gathered for each edge, at a cost that does not depend on the
vocabulary. Otherwise every id is an option, and those that the state does not allow have no probability.

Shape letters: R = rows, X = options, V = ids, U = ids of the closed set, C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....graph.vocabulary import EOS, PAD
from ..automaton import DecodeAutomaton
from ..language import FINISHED
from .stack import Stack
from .task import Moment, Task

PART = 1024
"""Options that are looked through by one program of a GPU, where there is a multiple of this."""

MOST_MASKED = 1 << 22
"""Ids of all states of an automaton, up to which masks are made ahead."""


class Options(NamedTuple):
    """What each row may write next.

    Attributes:
        scores_RX: Score of each option; minus infinity for those that are none, or are not wanted.
        norms_R1: What makes a log probability of a score, among all that is allowed, when it is taken from it.
        ids_RX: Its id; where there is none of this, options are ids in order.
        edges_RX: Its edge; where there is none of this, ids are looked up.
    """

    scores_RX: Tensor
    norms_R1: Tensor
    ids_RX: Tensor | None = None
    edges_RX: Tensor | None = None

    @property
    def log_probs_RX(self) -> Tensor:
        """Log probability of each option; minus infinity for those that are none, or are not wanted."""
        log_probs_RX = self.scores_RX - self.norms_R1
        # Where the norm is NaN all would be, and what is not allowed would win by it.
        return log_probs_RX.masked_fill_(self.scores_RX == -torch.inf, -torch.inf)

    def log_probs_of(self, rows_N: Tensor, options_N: Tensor) -> Tensor:
        """Return the log probabilities of some options of some rows."""
        return self.scores_RX[rows_N, options_N] - self.norms_R1[rows_N, 0]

    def best(self) -> Tensor:
        """Return the option of each row with the highest score, the first of equals; NaN is higher than all."""
        num_parts = _num_parts(self.scores_RX)
        if num_parts == 1:
            return self.scores_RX.argmax(-1)
        scores_RPX = self.scores_RX.unflatten(1, (num_parts, -1))
        part_R1 = scores_RPX.amax(-1).argmax(-1, keepdim=True)
        rows_R = torch.arange(len(part_R1), device=part_R1.device)
        return part_R1[:, 0] * PART + scores_RPX[rows_R, part_R1[:, 0]].argmax(-1)

    def where_id(self, id_: int | Tensor) -> Tensor:
        """Return which options have ``id_``, one or one for each row; shape ``(R, X)`` or ``(1, X)``."""
        wanted = id_[:, None] if isinstance(id_, Tensor) else id_
        if self.ids_RX is not None:
            return self.ids_RX == wanted
        num_ids = self.scores_RX.shape[1]
        return torch.arange(num_ids, device=self.scores_RX.device)[None] == wanted

    def end(self) -> tuple[Tensor, Tensor]:
        """Return scores with the end alone left, and whether there is one, shape ``(R, 1)``."""
        ended_RX = self.scores_RX.masked_fill(~self.where_id(EOS), -torch.inf)
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
        hidden_SV: Which ids each state does not allow; None where that would be large.
    """

    automaton: DecodeAutomaton
    temperature: float
    head_UC: Tensor | None = None
    hidden_SV: Tensor | None = None

    @classmethod
    def of(cls, automaton: DecodeAutomaton, stack: Stack, temperature: float) -> Chooser:
        """Return what weighs the scores of ``stack``."""
        chooser = cls(automaton=automaton, temperature=temperature)
        if automaton.is_closed:
            return replace(chooser, head_UC=stack.weight_VC[automaton.used_U])
        num_states, num_ids = len(automaton.ranges_S2), len(stack.weight_VC)
        if num_states * num_ids > MOST_MASKED:
            return chooser
        states_S = torch.arange(num_states, device=automaton.ranges_S2.device)
        return replace(chooser, hidden_SV=~automaton.is_allowed(states_S, num_ids))

    def weigh(
        self, stack: Stack, hidden_RC: Tensor, states_R: Tensor, fan_out: int | None = None
    ) -> Options:
        """Return the options of rows in ``states_R``; of NaN as a score comes NaN as a probability.

        Args:
            stack: What scores.
            hidden_RC: The rows' states in the decoder.
            states_R: Their states in the automaton.
            fan_out: Most edges of these, if that is known.
        """
        if self.head_UC is None:
            return self._mask(stack.score(hidden_RC), states_R)
        return self.look_up(F.linear(hidden_RC, self.head_UC), states_R, fan_out)

    def look_up(self, scores_RU: Tensor, states_R: Tensor, fan_out: int | None = None) -> Options:
        """Return the options of rows in ``states_R``, of the scores of the ids of a closed set."""
        edges_RX, is_past_RX = self.automaton.edges(states_R, fan_out)
        columns_RX = _pick(self.automaton.columns_E, edges_RX)
        scores_RX = self._temper(scores_RU.gather(1, columns_RX))
        scores_RX = scores_RX.masked_fill_(is_past_RX, -torch.inf)
        # One op for a norm and what it is taken from; masked once more, since a NaN makes all of its row NaN.
        log_probs_RX = scores_RX.log_softmax(-1).masked_fill_(is_past_RX, -torch.inf)
        ids_RX = _pick(self.automaton.edge_ids_E, edges_RX).masked_fill_(is_past_RX, -1)
        return Options(log_probs_RX, log_probs_RX.new_zeros(len(ids_RX), 1), ids_RX, edges_RX)

    def follow(
        self, options: Options, states_N: Tensor, rows_N: Tensor, options_N: Tensor
    ) -> Tensor:
        """Return the states after option ``options_N`` of row ``rows_N``, which is in ``states_N``."""
        if options.edges_RX is None:
            return self.automaton.advance(states_N, options_N)
        places_N = torch.add(options_N, rows_N, alpha=options.edges_RX.shape[1])
        edges_N = options.edges_RX.flatten().index_select(0, places_N)
        return self.automaton.edge_states_E.index_select(0, edges_N)

    def _mask(self, scores_RV: Tensor, states_R: Tensor) -> Options:
        if self.hidden_SV is None:
            is_hidden_RV = ~self.automaton.is_allowed(states_R, scores_RV.shape[1])
        else:
            is_hidden_RV = self.hidden_SV.index_select(0, states_R)
        scores_RV = self._temper(scores_RV).masked_fill_(is_hidden_RV, -torch.inf)
        norms_R1 = _norm(scores_RV)
        if self.automaton.pads:
            # Padding may be in a range, and is nothing that a text has in it.
            scores_RV[:, PAD] = scores_RV[:, PAD].where(states_R == FINISHED, -torch.inf)
        return Options(scores_RV, norms_R1)

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
        min_length: Ids before the end, at least.
        no_repeat_ngram: Length of runs of ids that do not come twice; 0 for none.
        prefix_P: Ids that a target begins with, then -1.
    """

    min_length: int
    no_repeat_ngram: int
    prefix_P: Tensor

    @classmethod
    def of(cls, task: Task) -> Limits:
        """Return the limits of a search."""
        return cls(
            min_length=task.search.min_length,
            no_repeat_ngram=task.search.no_repeat_ngram,
            # Filled on the device: a graph that is being recorded takes no copies from the host.
            prefix_P=torch.stack([task.roots_B.new_full((), id_) for id_ in (*task.prefix, -1)]),
        )

    def apply(
        self, options: Options, tokens_RT: Tensor, begins_R: Tensor, moment: Moment
    ) -> Options:
        """Return the options that are left.

        Args:
            options: What is allowed.
            tokens_RT: What was written, the begin of sequence first, then padding.
            begins_R: Ids that each row was given.
            moment: The step.
        """
        left = options
        if len(self.prefix_P) > 1:
            place_R = (moment.index - begins_R).clamp(0, len(self.prefix_P) - 1)
            wanted_R = self.prefix_P[place_R]
            left = _drop(left, (wanted_R >= 0)[:, None] & ~left.where_id(wanted_R))
        if self.no_repeat_ngram:
            left = _drop(left, _find_repeated(left, tokens_RT, moment.index, self.no_repeat_ngram))
        if self.min_length and moment.may_be_short:
            left = _drop_end(left, (moment.index - begins_R) < self.min_length)
        if moment.is_last:
            # The end goes before all other limits: they are looked at again only where it is not allowed.
            ended_RX, can_end_R1 = options.end()
            left = left._replace(scores_RX=ended_RX.where(can_end_R1, left.scores_RX))
        return left


def _pick(values_E: Tensor, edges_RX: Tensor) -> Tensor:
    # A third of the time of indexing.
    return values_E.index_select(0, edges_RX.flatten()).view_as(edges_RX)


def _num_parts(scores_RX: Tensor) -> int:
    num_options = scores_RX.shape[1]
    return 1 if num_options % PART else num_options // PART


def _highest(scores_RX: Tensor) -> Tensor:
    return scores_RX.unflatten(1, (_num_parts(scores_RX), -1)).amax(-1).amax(-1)


def _norm(scores_RX: Tensor) -> Tensor:
    """Return the log of the sum of exponentials, shape ``(R, 1)``."""
    parts_RPX = scores_RX.unflatten(1, (_num_parts(scores_RX), -1))
    return parts_RPX.logsumexp(-1).logsumexp(-1, keepdim=True)


def _drop(options: Options, is_unwanted: Tensor) -> Options:
    left_RX = options.scores_RX.masked_fill(is_unwanted, -torch.inf)
    # A maximum is NaN where a score is; that is no reason to drop all.
    has_any_R1 = _highest(left_RX)[:, None] != -torch.inf
    return options._replace(scores_RX=left_RX.where(has_any_R1, options.scores_RX))


def _drop_end(options: Options, is_short_R: Tensor) -> Options:
    if options.ids_RX is not None:
        return _drop(options, options.where_id(EOS) & is_short_R[:, None])
    # One column of many: what `_drop` does, without a look at the others but for one.
    scores_RX = options.scores_RX.clone()
    scores_RX[:, EOS] = scores_RX[:, EOS].masked_fill(is_short_R, -torch.inf)
    has_any_R = _highest(scores_RX) != -torch.inf
    scores_RX[:, EOS] = scores_RX[:, EOS].where(has_any_R, options.scores_RX[:, EOS])
    return options._replace(scores_RX=scores_RX)


def _find_repeated(options: Options, tokens_RT: Tensor, index: Tensor, length: int) -> Tensor:
    """Return which options would end a run of ``length`` ids that was written before."""
    num_rows, num_tokens = tokens_RT.shape
    device = tokens_RT.device
    num_ids = options.scores_RX.shape[1] if options.ids_RX is None else None
    if num_tokens < length:
        return torch.zeros_like(options.scores_RX, dtype=torch.bool)
    runs_RWN = tokens_RT.unfold(1, length, 1)
    last_RN = tokens_RT[:, (index + torch.arange(2 - length, 1, device=device)).clamp(min=0)]
    is_written_W = torch.arange(length - 1, num_tokens, device=device) <= index
    is_same_RW = (runs_RWN[..., :-1] == last_RN[:, None]).all(-1) & is_written_W
    ends_RW = runs_RWN[..., -1]
    if num_ids is None:
        assert options.ids_RX is not None
        is_end_RXW = options.ids_RX[:, :, None] == ends_RW[:, None]
        return (is_end_RXW & is_same_RW[:, None]).any(-1)
    # Runs that are not the last one point past the last id, at a column that is cut off.
    marked = torch.zeros(num_rows, num_ids + 1, dtype=torch.bool, device=device)
    return marked.scatter(1, ends_RW.where(is_same_RW, num_ids), value=True)[:, :-1]


_MOST = -torch.finfo(torch.float32).min / 4
