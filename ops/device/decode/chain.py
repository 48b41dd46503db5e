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
from .draw import split_keys
from .rules import Rules
from .step import open_cache, take_step
from .task import Moment, Task
from .written import Written, rank


class Chains(NamedTuple):
    """What rows write; in place.

    Attributes:
        tokens_RT: Ids, the begin of sequence first, padding last.
        log_probs_RL: Log probability of each.
        begins_R: Ids that each row was given.
        keys_R: What is drawn for a row follows from its key.
    """

    tokens_RT: Tensor
    log_probs_RL: Tensor
    begins_R: Tensor
    keys_R: Tensor


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
    stack, num_rows, length = task.stack, task.search.beams, task.max_length
    states_R = task.roots_B.long().repeat_interleave(num_rows)
    chains = _begin(task, states_R)
    rules = Rules.of(task)
    cache = open_cache(stack, task.sources, num_rows=num_rows, max_length=length)
    take, go_on = task.compile(take_step), task.compile_choice(go_on_chains)
    ids_R = torch.full_like(states_R, BOS)
    for at in range(length):
        moment = task.moment(at, num_rows)
        hidden_RC = take(stack, ids_R, moment.index, cache, task.num_seen(at))
        ids_R, states_R = go_on(rules, chains, hidden_RC, states_R, moment)
        yield ChainState(at + 1, chains.tokens_RT, chains.log_probs_RL, states_R)


def go_on_chains(
    rules: Rules, chains: Chains, hidden_RC: Tensor, states_R: Tensor, moment: Moment
) -> tuple[Tensor, Tensor]:
    """Write one more id of every row, and return the ids and the states after them.

    Args:
        rules: What is written.
        chains: The ids are added to it.
        hidden_RC: The rows' states in the decoder.
        states_R: Their states in the automaton.
        moment: The step.
    """
    options = rules.weigh(hidden_RC, states_R, chains.tokens_RT, chains.begins_R, moment)
    chosen_R = rules.pick(options, chains.keys_R, moment.index)
    rows_R = torch.arange(len(chosen_R), device=chosen_R.device)
    ids_R = options.pick_ids(rows_R, chosen_R)
    log_probs_R = options.log_probs_of(rows_R, chosen_R)
    next_R = rules.chooser.follow(options, states_R, rows_R, chosen_R)
    if moment.told is not None:
        ids_R, log_probs_R, next_R = moment.told.obey(ids_R, log_probs_R, next_R, states_R)
    chains.tokens_RT.index_copy_(1, moment.index + 1, ids_R[:, None])
    chains.log_probs_RL.index_copy_(1, moment.index, log_probs_R[:, None])
    return ids_R, next_R


def read_chains(task: Task, last: ChainState) -> Written:
    """Return what the rows have written, the best of each document first."""
    num_rows = task.search.beams
    return rank(
        last.tokens_RT[:, 1:].unflatten(0, (-1, num_rows)),
        last.log_probs_RL.unflatten(0, (-1, num_rows)),
        (last.states_R == FINISHED).unflatten(0, (-1, num_rows)),
        task,
    )


def _begin(task: Task, states_R: Tensor) -> Chains:
    search, keys_B = task.search, task.keys_B
    tokens_RT = states_R.new_full((len(states_R), task.max_length + 1), PAD)
    tokens_RT[:, 0] = BOS
    log_probs_RL = torch.zeros(len(states_R), task.max_length, device=states_R.device)
    if keys_B is None:
        keys_B = torch.arange(len(task.roots_B), device=states_R.device)
    return Chains(
        tokens_RT, log_probs_RL, task.begins(search.beams), split_keys(keys_B, search.beams)
    )
