"""A beam search as OFASys makes it, eager: keys and values are kept, biases of all that was written made anew.

Source and memory are repeated for every beam, and put in the order of the beams after every id. What the search
itself does is as little as can be: ranks are compared as tensors, all targets have one length, and no text is
looked at.

Shape letters: B = documents, K = beams, R = rows, so many as documents times beams, S = source tokens, V = ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from eager_ofasys import EagerOfasys, Kept, Part, Side
from torch import Tensor

from taskloom.graph.vocabulary import BOS, EOS


@dataclass(frozen=True, slots=True, kw_only=True)
class EagerBeams:
    """The search.

    Attributes:
        model: What scores.
        beams: Targets that are followed for each document.
        length: Ids that are written, the end included.
        is_allowed_V: The ids that may be written, the end among them.
    """

    model: EagerOfasys
    beams: int
    length: int
    is_allowed_V: Tensor

    @torch.no_grad()
    def write(self, source_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best target of each source, without its end, and its log probability.

        Shapes are ``(B, length - 1)`` and ``(B,)``.
        """
        source, memory = self.model.read([Part(ids=source_BS)])
        num_documents = len(source_BS)
        again_R = torch.arange(num_documents).repeat_interleave(self.beams)
        positions = source.positions.expand(num_documents, -1, -1)
        source = pick(Side(source.hidden, positions, source.is_padding), again_R)
        memory = memory[again_R]
        kept: Kept = {}
        written_RT = torch.full((len(again_R), 1), BOS)
        # Beams are all one target at first, and the first alone counts.
        totals_BK = torch.full((num_documents, self.beams), -torch.inf)
        totals_BK[:, 0] = 0
        first_B1 = torch.arange(0, len(again_R), self.beams)[:, None]
        for _ in range(self.length - 1):
            log_probs_BKV = self._score(written_RT, source, memory, kept).unflatten(
                0, totals_BK.shape
            )
            log_probs_BKV[..., EOS] = -torch.inf
            ranked = (totals_BK[..., None] + log_probs_BKV).flatten(1)
            totals_BK, best_BK = ranked.topk(self.beams)
            rows_R = (first_B1 + best_BK // log_probs_BKV.shape[-1]).flatten()
            ids_R = (best_BK % log_probs_BKV.shape[-1]).flatten()
            written_RT = torch.cat((written_RT[rows_R], ids_R[:, None]), 1)
            for name, (k, v) in kept.items():
                kept[name] = k.index_select(0, rows_R), v.index_select(0, rows_R)
            source, memory = pick(source, rows_R), memory.index_select(0, rows_R)
        # Nothing but the end may follow, as likely as it is among all that might.
        ends_BK = self._score(written_RT, source, memory, kept)[:, EOS].unflatten(
            0, totals_BK.shape
        )
        totals_B, best_B = (totals_BK + ends_BK).max(1)
        return written_RT[first_B1[:, 0] + best_B, 1:], totals_B

    def _score(self, written_RT: Tensor, source: Side, memory: Tensor, kept: Kept) -> Tensor:
        """Return log probabilities of the next id, shape ``(R, V)``."""
        states = self.model.step(written_RT, source, memory, kept)
        scores = self.model.score_states(states)
        return scores.masked_fill(~self.is_allowed_V, -torch.inf).log_softmax(-1)


def pick(side: Side, rows_R: Tensor) -> Side:
    """Return those rows of ``side``."""
    return Side(
        side.hidden.index_select(0, rows_R),
        side.positions.index_select(0, rows_R),
        side.is_padding.index_select(0, rows_R),
    )
