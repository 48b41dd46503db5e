"""The decode automaton: the diagram of some languages as tensors, so that one step serves all documents.

All languages of a batch live in one automaton, and each document starts at the root of its task. Writing
ends in `FINISHED`, whose only way on is padding; a finished document is no special case. A state of frames
allows no id at all: whoever writes them goes on from `DecodeAutomaton.after_frames`.

All edges of a state lie together, in compressed rows; where no edge fits, its range of ids decides.

Shape letters: S = states, E = edges, F = edges of the state with most of them, B = documents,
V = ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...graph.vocabulary import PAD
from .language import FINISHED, Continuous, Diagram


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeAutomaton:
    """States and what leads from one to the next, as tensors on one device.

    Attributes:
        roots: First state of each language.
        longest: Most ids that a language writes whose steps bound it, the end included; 0 if there is none.
        fan_out: ``F``.
        fan_outs: The same of states that some root leads to with 0, 1, 2 and more ids; the last for all that
            is more.
        offsets_S: Where the edges of each state begin; ``S + 1`` integers.
        edge_ids_E: Id of each edge.
        edge_states_E: State that it leads to.
        ranges_S2: First id of each state's range, and one past the last; both 0 where there is
            none.
        range_states_S: State that the range leads to; after frames, the state that follows them.
        used_U: Ids that edges have, each once, in order.
        columns_E: Place of each edge's id in ``used_U``.
        is_closed: Whether no state has a range, so that only ids of ``used_U`` are written.
        pads: Whether some range has the id of padding in it.
        frames: The slots of frames that there are.
        frames_S: Which of them each state writes, -1 for none.
        most_slots: Most slots of frames of a language.
        most_frames: Most frames of a language.
    """

    roots: tuple[int, ...]
    longest: int
    fan_out: int
    fan_outs: tuple[int, ...]
    offsets_S: Tensor
    edge_ids_E: Tensor
    edge_states_E: Tensor
    ranges_S2: Tensor
    range_states_S: Tensor
    used_U: Tensor
    columns_E: Tensor
    is_closed: bool
    pads: bool
    frames: tuple[Continuous, ...]
    frames_S: Tensor
    most_slots: int
    most_frames: int

    def to(self, device: torch.device | str) -> DecodeAutomaton:
        """Return the same automaton on ``device``; itself, if it is there."""
        if self.offsets_S.device == torch.device(device):
            return self
        tensors = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, **tensors)

    def is_allowed(self, states_B: Tensor, num_ids: int) -> Tensor:
        """Return which ids each state allows, shape ``(B, V)``."""
        id_V = torch.arange(num_ids, device=states_B.device)
        first_B1, stop_B1 = self.ranges_S2[states_B].split(1, dim=1)
        in_range_BV = (id_V >= first_B1) & (id_V < stop_B1)
        edges_BF, is_past_BF = self.edges(states_B)
        # Places in the row that no edge fills point past the last id, at a column that is cut off.
        ids_BF = self.edge_ids_E[edges_BF].masked_fill(is_past_BF, num_ids)
        at_edge_BV = in_range_BV.new_zeros(len(states_B), num_ids + 1).scatter(
            1, ids_BF, value=True
        )
        return in_range_BV | at_edge_BV[:, :-1]

    def advance(self, states_B: Tensor, ids_B: Tensor) -> Tensor:
        """Return the states that ``ids_B``, all of them allowed, lead to."""
        edges_BF, is_past_BF = self.edges(states_B)
        is_taken_BF = ~is_past_BF & (self.edge_ids_E[edges_BF] == ids_B[:, None])
        taken_B = edges_BF.gather(1, is_taken_BF.long().argmax(1, keepdim=True))[:, 0]
        return self.edge_states_E[taken_B].where(is_taken_BF.any(1), self.range_states_S[states_B])

    def after_frames(self, states_B: Tensor) -> Tensor:
        """Return the states that follow ``states_B``, all of them of frames."""
        return self.range_states_S[states_B]

    def fan_out_of(self, least: int, most: int) -> int:
        """Return the edges of the state with most of them, of those that ``least`` to ``most`` ids lead to."""
        deepest = len(self.fan_outs) - 1
        return max(self.fan_outs[min(least, deepest) : most + 1])

    def edges(self, states_B: Tensor, fan_out: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the edges of each state, and which lie past its last one, both of shape ``(B, F)``.

        Args:
            states_B: The states.
            fan_out: ``F``, if it is known that these have no more edges.
        """
        column_F = torch.arange(
            self.fan_out if fan_out is None else fan_out, device=states_B.device
        )
        # Selected, not indexed: a step through a closed set is all small ops, and indexing is the dearest.
        edges_BF = self.offsets_S.index_select(0, states_B)[:, None] + column_F
        is_past_BF = edges_BF >= self.offsets_S.index_select(0, states_B + 1)[:, None]
        return edges_BF.clamp_(max=len(self.edge_ids_E) - 1), is_past_BF


def build_automaton(diagram: Diagram) -> DecodeAutomaton:
    """Return the automaton of ``diagram``."""
    edges = [
        (id_, way.state) for state in diagram.states for id_, way in sorted(state.edges.items())
    ]
    fan_outs = np.array([len(state.edges) for state in diagram.states])
    id_and_state_E2 = torch.tensor(edges)
    used_U, columns_E = id_and_state_E2[:, 0].unique(return_inverse=True)
    ranges = [(state.first, state.stop) for state in diagram.states]
    frames = tuple(dict.fromkeys(s.frames for s in diagram.states if s.frames is not None))
    numbers = [-1 if s.frames is None else frames.index(s.frames) for s in diagram.states]
    return DecodeAutomaton(
        roots=diagram.roots,
        longest=diagram.longest,
        fan_out=int(fan_outs.max()),
        fan_outs=_fan_outs_by_depth(diagram),
        offsets_S=torch.from_numpy(np.concatenate([[0], fan_outs.cumsum()])),
        edge_ids_E=id_and_state_E2[:, 0].contiguous(),
        edge_states_E=id_and_state_E2[:, 1].contiguous(),
        ranges_S2=torch.tensor(ranges),
        range_states_S=torch.tensor([state.rest.state for state in diagram.states]),
        used_U=used_U,
        columns_E=columns_E,
        is_closed=all(first >= stop for first, stop in ranges),
        pads=any(first <= PAD < stop for first, stop in ranges),
        frames=frames,
        frames_S=torch.tensor(numbers),
        most_slots=diagram.most_slots,
        most_frames=diagram.most_frames,
    )


def _fan_outs_by_depth(diagram: Diagram) -> tuple[int, ...]:
    """Return the most edges of states by the number of ids that lead there; the last goes for all above."""
    if diagram.most_slots:
        # Frames lead on without an id: the number of ids tells little of the state.
        return (max(len(state.edges) for state in diagram.states),)
    most: list[int] = []
    # Documents that are finished, and rows without one, stand in the first state from any step on.
    level = {FINISHED, *diagram.roots}
    while len(most) < _DEEPEST:
        states = [diagram.states[number] for number in level]
        most.append(max(len(state.edges) for state in states))
        after = {way.state for state in states for way in state.edges.values()}
        after |= {state.rest.state for state in states if state.first < state.stop}
        if after == level:
            return tuple(most)
        level = after
    return (*most, max(len(state.edges) for state in diagram.states))


_DEEPEST = 32
"""Ids by which fan-outs are told apart."""

_TENSORS = (
    "offsets_S",
    "edge_ids_E",
    "edge_states_E",
    "ranges_S2",
    "range_states_S",
    "used_U",
    "columns_E",
    "frames_S",
)
