"""Whatever the scores, only members of the language are written, and every member can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from taskloom.graph.vocabulary import EOS, PAD
from taskloom.ops.device.automaton import DecodeAutomaton, build_automaton
from taskloom.ops.device.decode.options import Chooser
from taskloom.ops.device.decode.rotary_stack import RotaryStack
from taskloom.ops.device.language import (
    FINISHED,
    Continuous,
    Forced,
    Free,
    Language,
    OneOf,
    Repeat,
    draw_languages,
)

NUM_IDS = 12
ids = st.integers(4, NUM_IDS - 1)
closed = st.lists(st.lists(ids, max_size=5).map(tuple), min_size=1, max_size=8).map(
    lambda sequences: OneOf(sequences=tuple(sequences))
)
free = st.builds(
    lambda first, size: Free(first=first, stop=min(first + size, NUM_IDS)), ids, st.integers(1, 5)
)
forced = st.lists(ids, min_size=1, max_size=3).map(lambda each: Forced(tuple(each)))
languages = st.one_of(
    closed.map(lambda step: (step,)),
    st.tuples(forced, free),
    st.tuples(free, forced, closed),
    st.tuples(forced, st.tuples(forced, closed).map(Repeat)),
)
scores = st.sampled_from([0.0, 1.0, -1.0, 5.0, float("nan"), float("inf"), -float("inf"), 3e38])


SCORES = RotaryStack(cast("Any", None), cast("Any", None), nn.Identity())
"""What takes scores for states, and scores them as they are."""


def write(
    automaton: DecodeAutomaton, rows: Sequence[Sequence[float]], root: int
) -> tuple[list[int], float]:
    """Choose by a row of scores per step; return the ids and their log probability."""
    chooser, first = Chooser(automaton=automaton, temperature=1.0), torch.tensor([0])
    state, chosen, total = torch.tensor([root]), [], 0.0
    for row in rows:
        scores_RV = torch.tensor([row])
        if automaton.is_closed:
            options = chooser.look_up(scores_RV[:, automaton.used_U], state)
        else:
            options = chooser.weigh(SCORES, scores_RV, state)
        best = options.best()
        chosen.append(int(options.pick_ids(first, best)))
        total += float(options.log_probs_of(first, best))
        state = chooser.follow(options, state, first, best)
    return chosen, total


def build(each: Sequence[Language]) -> DecodeAutomaton:
    return build_automaton(draw_languages(each, num_ids=NUM_IDS))


@settings(deadline=None, max_examples=100)
@given(
    several=st.lists(languages, min_size=1, max_size=4),
    rows=st.lists(st.lists(scores, min_size=NUM_IDS, max_size=NUM_IDS), min_size=6, max_size=6),
)
def test_only_what_the_diagram_allows_is_written_whatever_the_scores(
    several: list[Language], rows: list[list[float]]
) -> None:
    diagram = draw_languages(several, num_ids=NUM_IDS)
    automaton = build_automaton(diagram)
    for root in automaton.roots:
        state = root
        for id_ in write(automaton, rows, root)[0]:
            way = diagram.states[state].follow(id_)
            assert way is not None
            state = way.state


@settings(deadline=None, max_examples=50)
@given(language=closed, others=st.lists(closed, max_size=2), data=st.data())
def test_every_member_is_written_when_it_scores_highest(
    language: OneOf, others: list[OneOf], data: st.DataObject
) -> None:
    automaton = build([*((other,) for other in others), (language,)])
    member = [*data.draw(st.sampled_from(language.sequences)), EOS]
    rows = [[float(id_ == wanted) for id_ in range(NUM_IDS)] for wanted in member]
    assert write(automaton, rows, automaton.roots[-1])[0] == member


@settings(deadline=None, max_examples=50)
@given(language=closed, seed=st.integers(0, 2**16))
def test_probabilities_of_all_members_add_up_to_one(language: OneOf, seed: int) -> None:
    automaton = build([(language,)])
    rows_LV = torch.randn(6, NUM_IDS, generator=torch.Generator().manual_seed(seed))
    total = 0.0
    for member in set(language.sequences):
        state, log_prob = torch.tensor(automaton.roots), 0.0
        for row_V, id_ in zip(rows_LV, [*member, EOS], strict=False):
            allowed_V = automaton.is_allowed(state, NUM_IDS)[0]
            log_prob += float(row_V.masked_fill(~allowed_V, -torch.inf).log_softmax(0)[id_])
            state = automaton.advance(state, torch.tensor([id_]))
        assert state.tolist() == [FINISHED]
        total += 2.718281828459045**log_prob
    assert total == pytest.approx(1, abs=1e-4)


def test_documents_of_many_languages_advance_together() -> None:
    automaton = build(
        [
            (OneOf(sequences=((5,), (5, 6), (7, 8))),),
            (Forced((9,)), Free(first=4, stop=6)),
            (OneOf(sequences=((10,),)),),
        ]
    )
    states = torch.tensor([*automaton.roots, FINISHED])
    allowed: list[list[list[int]]] = []
    for wanted in ([5, 9, 10, PAD], [6, 4, EOS, PAD], [EOS, EOS, PAD, PAD]):
        mask = automaton.is_allowed(states, NUM_IDS)
        allowed.append([row.nonzero()[:, 0].tolist() for row in mask])
        states = automaton.advance(states, torch.tensor(wanted))
    assert allowed == [
        [[5, 7], [9], [10], [PAD]],
        [[EOS, 6], [EOS, 4, 5], [EOS], [PAD]],
        [[EOS], [EOS, 4, 5], [PAD], [PAD]],
    ]
    assert states.tolist() == [FINISHED] * 4
    assert automaton.longest == 3


def test_a_forced_id_is_certain_and_a_nan_score_shows() -> None:
    automaton = build([(OneOf(sequences=((7, 8),)),)])
    certain = [[0.0] * NUM_IDS] * 3
    assert write(automaton, certain, automaton.roots[0]) == ([7, 8, EOS], 0.0)
    ids_, log_prob = write(automaton, [[float("nan")] * NUM_IDS] * 3, automaton.roots[0])
    assert ids_ == [7, 8, EOS]
    assert log_prob != log_prob  # noqa: PLR0124 - NaN


@settings(deadline=None, max_examples=50)
@given(several=st.lists(languages, min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_no_state_has_more_edges_than_is_told_of_its_depth(
    several: list[Language], seed: int
) -> None:
    automaton = build(several)
    generator = torch.Generator().manual_seed(seed)
    states = torch.tensor([*automaton.roots, FINISHED])
    for at in range(12):
        num_edges = automaton.offsets_S[states + 1] - automaton.offsets_S[states]
        assert int(num_edges.max()) <= automaton.fan_out_of(at, at)
        allowed = automaton.is_allowed(states, NUM_IDS).float()
        taken = torch.multinomial(allowed, 1, generator=generator)[:, 0]
        states = automaton.advance(states, taken)


def test_a_state_of_frames_allows_no_id_and_leads_on_without_one() -> None:
    first, second = Continuous(slot="a", most=3), Continuous(slot="b", most=5)
    automaton = build([(Forced((9,)), first, second), (second, OneOf(sequences=((4,),)))])
    assert (automaton.most_slots, automaton.most_frames) == (2, 8)
    states = automaton.advance(torch.tensor(automaton.roots[:1]), torch.tensor([9]))
    states = torch.cat((states, torch.tensor(automaton.roots[1:])))
    for kinds in ([first, second], [second, None]):
        numbers = automaton.frames_S[states].tolist()
        assert [automaton.frames[n] if n >= 0 else None for n in numbers] == kinds
        is_frames = automaton.frames_S[states] >= 0
        assert (automaton.is_allowed(states, NUM_IDS).any(1) == ~is_frames).all()
        states = automaton.after_frames(states).where(is_frames, states)
    allowed = automaton.is_allowed(states, NUM_IDS)
    assert [row.nonzero()[:, 0].tolist() for row in allowed] == [[EOS], [4]]
