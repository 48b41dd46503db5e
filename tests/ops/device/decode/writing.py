"""Targets written by the small program of these tests, and the same worked out without caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from taskloom.graph.vocabulary import BOS
from taskloom.ops.device.automaton import DecodeAutomaton, build_automaton
from taskloom.ops.device.decode.rotary_stack import RotaryStack
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.step import Sources
from taskloom.ops.device.decode.task import Task
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.decode.written import Written
from taskloom.ops.device.language import Language, draw_languages

NUM_IDS, LONGEST_SOURCE = 40, 16


def build(languages: Sequence[Language]) -> DecodeAutomaton:
    return build_automaton(draw_languages(languages, num_ids=NUM_IDS))


def make_task(
    program: Any,
    automaton: DecodeAutomaton,
    memory: Tensor,
    keys: Sequence[tuple[int, int]],
    *,
    roots: Sequence[int] | None = None,
    max_length: int = 8,
    search: Search | None = None,
    **more: Any,
) -> Task:
    """Return a task for documents whose sources are ``keys`` of ``memory``."""
    return Task(
        stack=RotaryStack(program.decoder, program.table),
        automaton=automaton,
        sources=Sources(memory, torch.tensor(keys).T, LONGEST_SOURCE),
        roots_B=torch.tensor(roots or [automaton.roots[0]] * len(keys)),
        max_length=max_length,
        search=search or Search(),
        **more,
    )


def write_one(program: Any, automaton: DecodeAutomaton, memory: Tensor, **settings: Any) -> Written:
    """Write for one document whose source is all of ``memory``."""
    return write(make_task(program, automaton, memory, [(0, len(memory))], **settings))


@torch.no_grad()
def score_alone(
    program: Any,
    automaton: DecodeAutomaton,
    memory: Tensor,
    keys: tuple[int, int],
    ids: Sequence[int],
    root: int | None = None,
) -> list[float]:
    """Return the log probability of each of ``ids``, from one pass of the decoder over all of them."""
    length = len(ids)
    inputs = torch.tensor([BOS, *ids[:-1]], dtype=torch.int32)
    index = torch.arange(length, dtype=torch.int32)
    states = program.decode(
        program.decoder,
        hidden=program.embed(program.table, ids=inputs),
        positions=index,
        keys=torch.stack((index * 0, index + 1)),
        memory=memory,
        cross_keys=torch.tensor(keys)[:, None].expand(2, length),
    )
    state = torch.tensor([automaton.roots[0] if root is None else root])
    log_probs: list[float] = []
    for scores_V, id_ in zip(program.table.score(states), ids, strict=True):
        allowed_V = automaton.is_allowed(state, NUM_IDS)[0]
        log_probs.append(float(scores_V.masked_fill(~allowed_V, -torch.inf).log_softmax(0)[id_]))
        state = automaton.advance(state, torch.tensor([id_]))
    return log_probs
