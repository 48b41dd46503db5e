"""Beam search: the best few targets of each document are followed at once, and compared at every step.

Beams of a document may be divided into groups. A group is a search of its own, but for one thing: at every
step an id costs it something for each beam of the groups before that takes the id at the same step. A group
is done when as many targets are finished as it has beams.

Shape letters: as in `taskloom.ops.device.decode.step`; G = groups of a document, U = B * G, K = beams of a
group, so that R = U * K; T = tokens, the begin of sequence among them; X = options of a row.

Source: diverse groups, arXiv:1610.02424; else as `taskloom.ops.device.decode.pick`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ....graph.vocabulary import BOS, EOS, PAD
from ..language import FINISHED
from .options import Options
from .pick import Picked, pick
from .rules import Rules
from .step import follow_parents, open_cache, take_step
from .task import Moment, Task
from .written import Written, rank


class Beams(NamedTuple):
    """What is followed.

    Attributes:
        tokens_RT: Ids that were written, the begin of sequence first, padding last.
        log_probs_RL: Log probability of each.
        sums_R: Their sum; minus infinity for beams that follow nothing.
        states_R: States that beams are in.
    """

    tokens_RT: Tensor
    log_probs_RL: Tensor
    sums_R: Tensor
    states_R: Tensor


class Kept(NamedTuple):
    """What is finished; places behind the last are where targets are put that come too late.

    Attributes:
        ids_UKL: Ids, the first ``K`` of each group's.
        log_probs_UKL: Log probability of each.
        num_U: How many there are.
    """

    ids_UKL: Tensor
    log_probs_UKL: Tensor
    num_U: Tensor

    @property
    def size(self) -> int:
        """``K``."""
        return self.ids_UKL.shape[1] - 1


class BeamState(NamedTuple):
    """Where a search is."""

    at: int
    beams: Beams
    kept: Kept

    def is_done(self) -> Tensor:
        """Return whether nothing that follows would be kept."""
        size = self.kept.size
        is_empty_U = self.beams.states_R[::size] == FINISHED
        is_dead_U = (self.beams.sums_R == -torch.inf).unflatten(0, (-1, size)).all(1)
        return ((self.kept.num_U >= size) | is_dead_U | is_empty_U).all()


def search_beams(task: Task) -> Iterator[BeamState]:
    """Yield where the search is after every step; nothing waits for the device."""
    num_beams, length, stack = task.search.beams, task.max_length, task.stack
    beams, kept = _begin(task)
    rules, begins_R = Rules.of(task), task.begins(num_beams)
    cache = open_cache(stack, task.sources, num_rows=num_beams, max_length=length)
    take, follow = task.compile(take_step), task.compile(follow_parents)
    go_on = task.compile_choice(go_on_beams)
    ids_R = torch.full_like(beams.states_R, BOS)
    for at in range(length):
        moment, num_seen = task.moment(at, num_beams), task.num_seen(at)
        hidden_RC = take(stack, ids_R, moment.index, cache, num_seen)
        ids_R, parents_R, beams, kept = go_on(rules, beams, kept, hidden_RC, begins_R, moment)
        follow(cache, parents_R, num_seen)
        yield BeamState(at + 1, beams, kept)


def go_on_beams(
    rules: Rules, beams: Beams, kept: Kept, hidden_RC: Tensor, begins_R: Tensor, moment: Moment
) -> tuple[Tensor, Tensor, Beams, Kept]:
    """Return the ids that are written, the beams they follow, and both with them.

    Args:
        rules: What is written.
        beams: What is followed.
        kept: What is finished; written in place.
        hidden_RC: The beams' states in the decoder.
        begins_R: Ids that each beam was given.
        moment: The step.
    """
    options = rules.weigh(hidden_RC, beams.states_R, beams.tokens_RT, begins_R, moment)
    picked = _pick_groups(rules, options, beams.sums_R)
    kept = _keep(kept, beams, options, picked, moment)
    parents_R, options_R = _rows(picked.parents_BK), picked.options_BK.flatten()
    states_R = rules.chooser.follow(options, beams.states_R[parents_R], parents_R, options_R)
    sums_R = picked.sums_BK.flatten()
    # Beams that follow nothing may have been given an option that is none.
    ids_R = options.pick_ids(parents_R, options_R).where(sums_R > -torch.inf, PAD)
    log_probs_R = options.log_probs_of(parents_R, options_R)
    if (told := moment.told) is not None:
        own_R = torch.arange(len(parents_R), device=parents_R.device)
        parents_R = own_R.where(told.is_told_R, parents_R)
        sums_R = beams.sums_R.where(told.is_told_R, sums_R)
        ids_R, log_probs_R, states_R = told.obey(ids_R, log_probs_R, states_R, beams.states_R)
    tokens_RT = beams.tokens_RT[parents_R].index_copy(1, moment.index + 1, ids_R[:, None])
    log_probs_RL = beams.log_probs_RL[parents_R].index_copy(1, moment.index, log_probs_R[:, None])
    return ids_R, parents_R, Beams(tokens_RT, log_probs_RL, sums_R, states_R), kept


def read_beams(task: Task, last: BeamState) -> Written:
    """Return what is finished and, where that is too little, what else was followed, the best first."""
    beams, kept, size = last.beams, last.kept, last.kept.size
    is_kept_UK = torch.arange(size, device=kept.num_U.device) < kept.num_U[:, None]
    open_ids_UKL = beams.tokens_RT[:, 1:].unflatten(0, (-1, size))
    # What follows nothing has no probability, whatever it once was.
    is_dead_R1 = (beams.sums_R == -torch.inf)[:, None]
    open_UKL = beams.log_probs_RL.masked_fill(is_dead_R1, -torch.inf).unflatten(0, (-1, size))
    is_empty_UK = (beams.states_R == FINISHED).unflatten(0, (-1, size)) & (open_ids_UKL == PAD).all(
        -1
    )
    parts = (
        kept.ids_UKL[:, :size].where(is_kept_UK[..., None], open_ids_UKL),
        kept.log_probs_UKL[:, :size].where(is_kept_UK[..., None], open_UKL),
        is_kept_UK | is_empty_UK,
    )
    groups = (-1, task.search.groups)
    ids, log_probs, is_finished = (part.unflatten(0, groups).flatten(1, 2) for part in parts)
    return rank(ids, log_probs, is_finished, task)


def _begin(task: Task) -> tuple[Beams, Kept]:
    search, length = task.search, task.max_length
    states_R = task.roots_B.long().repeat_interleave(search.beams)
    device, size = states_R.device, search.beams // search.groups
    tokens_RT = states_R.new_full((len(states_R), length + 1), PAD)
    tokens_RT[:, 0] = BOS
    # All beams of a group are equal now: the first alone goes on, into all of them.
    sums_UK = torch.full((len(states_R) // size, size), -torch.inf, device=device)
    sums_UK[:, 0] = 0.0
    log_probs_RL = torch.zeros(len(states_R), length, device=device)
    kept = Kept(
        states_R.new_full((len(sums_UK), size + 1, length), PAD),
        torch.zeros(len(sums_UK), size + 1, length, device=device),
        states_R.new_zeros(len(sums_UK)),
    )
    return Beams(tokens_RT, log_probs_RL, sums_UK.flatten(), states_R), kept


def _pick_groups(rules: Rules, options: Options, sums_R: Tensor) -> Picked:
    """Return what each group goes on with; a group is shunned by those after it."""
    search = rules.search
    shape = (len(sums_R) // search.beams, search.groups, search.beams // search.groups)
    log_probs_BGKX = options.log_probs_RX.unflatten(0, shape)
    is_end_BGKX = options.where_id(EOS).expand_as(options.scores_RX).unflatten(0, shape)
    sums_BGK = sums_R.unflatten(0, shape)
    rows_BGK = torch.arange(len(sums_R), device=sums_R.device).unflatten(0, shape)
    taken_BV = sums_R.new_zeros(shape[0], len(rules.stack.weight_VC))
    picked: list[Picked] = []
    for group in range(search.groups):
        costs_BKX = None
        if group:
            costs_BKX = taken_BV[:, None].expand(-1, shape[2], -1) * search.diversity
            if options.ids_RX is not None:
                costs_BKX = costs_BKX.gather(2, options.ids_RX[rows_BGK[:, group]].clamp(min=0))
        own = pick(sums_BGK[:, group], log_probs_BGKX[:, group], is_end_BGKX[:, group], costs_BKX)
        picked.append(own)
        if group + 1 < search.groups:
            parents_BK = rows_BGK[:, group].gather(1, own.parents_BK)
            ids_BK = options.pick_ids(parents_BK, own.options_BK).clamp(min=0)
            is_live_BK = (own.sums_BK > -torch.inf).to(taken_BV.dtype)
            taken_BV = taken_BV.scatter_add(1, ids_BK, is_live_BK)
    return Picked(*(torch.stack(part, 1).flatten(0, 1) for part in zip(*picked, strict=True)))


def _keep(kept: Kept, beams: Beams, options: Options, picked: Picked, moment: Moment) -> Kept:
    """Keep the targets that are finished with the id of this step, as long as there is room."""
    is_end_UK = picked.is_end_BK
    if moment.told is not None:
        is_end_UK = is_end_UK & ~moment.told.is_told_R.unflatten(0, (-1, kept.size))[:, :1]
    slot_UK = kept.num_U[:, None] + is_end_UK.cumsum(1) - 1
    slot_UK = slot_UK.where(is_end_UK, kept.size).clamp(max=kept.size)
    slot_UKL = slot_UK[..., None].expand(-1, -1, kept.ids_UKL.shape[-1])
    parents_R, options_R = _rows(picked.end_parents_BK), picked.end_options_BK.flatten()
    ids_RL = beams.tokens_RT[parents_R, 1:].index_fill(1, moment.index, EOS)
    end_log_probs_R1 = options.log_probs_of(parents_R, options_R)[:, None]
    log_probs_RL = beams.log_probs_RL[parents_R].index_copy(1, moment.index, end_log_probs_R1)
    kept.ids_UKL.scatter_(1, slot_UKL, ids_RL.view_as(slot_UKL))
    kept.log_probs_UKL.scatter_(1, slot_UKL, log_probs_RL.view_as(slot_UKL))
    num_U = (kept.num_U + is_end_UK.sum(1)).clamp(max=kept.size)
    # Built anew: of a copy, torch 2.11 compiles a tuple without its last field.
    return Kept(kept.ids_UKL, kept.log_probs_UKL, num_U)


def _rows(beams_UK: Tensor) -> Tensor:
    """Return the rows of beams that are counted within their groups."""
    first_U = torch.arange(len(beams_UK), device=beams_UK.device) * beams_UK.shape[1]
    return (first_U[:, None] + beams_UK).flatten()
