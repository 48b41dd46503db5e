"""Targets that are written each on its own: the likeliest id at every step, or one that is drawn.

Shape letters: as in `taskloom.ops.device.decode.step`; T = tokens, the begin of sequence among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ....graph.vocabulary import BOS, PAD
from ..language import FINISHED
from .draw import draw, numbers, split_keys
from .options import Chooser, Limits
from .step import open_cache, take_step
from .task import Task
from .written import Written, rank

BLOCK = 16
"""Steps that look back on equally many positions, so that few shapes occur."""


class ChainState(NamedTuple):
    """What rows have written.

    Attributes:
        at: Ids that were written.
        tokens_RT: Their ids, the begin of sequence first, padding last.
        log_probs_RL: Log probability of each.
        states_R: States that rows are in.
    """

    at: int
    tokens_RT: Tensor
    log_probs_RL: Tensor
    states_R: Tensor

    def is_done(self) -> Tensor:
        """Return whether all rows are finished."""
        return (self.states_R == FINISHED).all()


def write_chains(task: Task) -> Iterator[ChainState]:
    """Yield where rows are after every step; tensors are written in place, and nothing waits for the device."""
    search, stack, num_rows = task.search, task.stack, task.search.beams
    states_R = task.roots_B.long().repeat_interleave(num_rows)
    device, length = states_R.device, task.max_length
    tokens_RT = states_R.new_full((len(states_R), length + 1), PAD)
    tokens_RT[:, 0] = BOS
    log_probs_RL = torch.zeros(len(states_R), length, device=device)
    chooser = Chooser.of(task.automaton, stack, search.temperature)
    limits = Limits.of(task)
    begins_R, keys_R = task.begins(num_rows), _keys(task)
    rows_R = torch.arange(len(states_R), device=device)
    cache = open_cache(stack, task.sources, num_rows=num_rows, max_length=length)
    for at, index in enumerate(torch.arange(length, device=device).split(1)):
        num_seen = min(length, (at // BLOCK + 1) * BLOCK)
        hidden_RC = take_step(stack, tokens_RT[:, at], index, cache, num_seen)
        options = chooser.weigh(stack, hidden_RC, states_R, task.fan_out(at))
        options = limits.apply(options, tokens_RT, at, begins_R)
        if search.sample:
            chosen_R = draw(
                options.scores_RX,
                numbers(search.seed, keys_R, at),
                top_k=search.top_k,
                top_p=search.top_p,
                temperature=search.temperature,
            )
        else:
            chosen_R = options.scores_RX.argmax(-1)
        ids_R = options.pick_ids(rows_R, chosen_R)
        log_probs_R = options.log_probs_of(rows_R, chosen_R)
        next_R = chooser.follow(options, states_R, rows_R, chosen_R)
        if (told_R := task.told(at, num_rows)) is not None:
            is_told_R = told_R != PAD
            ids_R = told_R.where(is_told_R, ids_R)
            log_probs_R = log_probs_R.masked_fill(is_told_R, 0.0)
            next_R = states_R.where(is_told_R, next_R)
        tokens_RT[:, at + 1] = ids_R
        log_probs_RL[:, at] = log_probs_R
        states_R = next_R
        yield ChainState(at + 1, tokens_RT, log_probs_RL, states_R)


def read_chains(task: Task, last: ChainState) -> Written:
    """Return what the rows have written, the best of each document first."""
    num_rows = task.search.beams
    return rank(
        last.tokens_RT[:, 1:].unflatten(0, (-1, num_rows)),
        last.log_probs_RL.unflatten(0, (-1, num_rows)),
        (last.states_R == FINISHED).unflatten(0, (-1, num_rows)),
        task,
    )


def _keys(task: Task) -> Tensor:
    keys_B = task.keys_B
    if keys_B is None:
        keys_B = torch.arange(len(task.roots_B), device=task.roots_B.device)
    return split_keys(keys_B, task.search.beams)
