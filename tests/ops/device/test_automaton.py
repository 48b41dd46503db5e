"""Whatever the scores, only members of the language are written, and every member can be."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import EOS, PAD
from taskloom.ops.device.automaton import (
    FINISHED,
    ClosedLanguage,
    DecodeAutomaton,
    FreeLanguage,
    Language,
    build_automaton,
)

NUM_IDS = 12
ids = st.integers(4, NUM_IDS - 1)
closed = st.lists(st.lists(ids, max_size=5).map(tuple), min_size=1, max_size=8).map(
    lambda sequences: ClosedLanguage(tuple(sequences))
)
free = st.builds(
    lambda prefix, first, size: FreeLanguage(
        prefix=tuple(prefix), first=first, stop=min(first + size, NUM_IDS)
    ),
    st.lists(ids, max_size=3),
    ids,
    st.integers(1, 5),
)
scores = st.sampled_from([0.0, 1.0, -1.0, 5.0, float("nan"), float("inf"), -float("inf"), 3e38])


def write(
    automaton: DecodeAutomaton, rows: Sequence[Sequence[float]], root: int
) -> tuple[list[int], float]:
    """Choose by a row of scores per step; return the ids and their log probability."""
    state, chosen, total = torch.tensor([root]), [], 0.0
    for row in rows:
        choice = automaton.choose(state, torch.tensor([row]))
        chosen.append(int(choice.ids_B))
        total += float(choice.log_probs_B)
        state = choice.states_B
    return chosen, total


def is_member(language: Language, written: list[int]) -> bool:
    """Say whether ``written`` is a word of the language followed by padding, or the start of a free one."""
    if isinstance(language, ClosedLanguage):
        words = [[*ids, EOS] for ids in language.sequences]
        return any(written == word + [PAD] * (len(written) - len(word)) for word in words)
    prefix = list(language.prefix)
    text = written[len(prefix) :]
    stop = text.index(EOS) if EOS in text else len(text)
    return (
        written[: len(prefix)] == prefix[: len(written)]
        and all(language.first <= id_ < language.stop for id_ in text[:stop])
        and all(id_ == PAD for id_ in text[stop + 1 :])
    )


@settings(deadline=None, max_examples=100)
@given(
    languages=st.lists(st.one_of(closed, free), min_size=1, max_size=4),
    rows=st.lists(st.lists(scores, min_size=NUM_IDS, max_size=NUM_IDS), min_size=6, max_size=6),
)
def test_only_members_are_written_whatever_the_scores(
    languages: list[Language], rows: list[list[float]]
) -> None:
    automaton = build_automaton(languages, num_ids=NUM_IDS)
    for language, root in zip(languages, automaton.roots, strict=True):
        assert is_member(language, write(automaton, rows, root)[0])


@settings(deadline=None, max_examples=50)
@given(language=closed, others=st.lists(closed, max_size=2), data=st.data())
def test_every_member_is_written_when_it_scores_highest(
    language: ClosedLanguage, others: list[ClosedLanguage], data: st.DataObject
) -> None:
    automaton = build_automaton([*others, language], num_ids=NUM_IDS)
    member = [*data.draw(st.sampled_from(language.sequences)), EOS]
    rows = [[float(id_ == wanted) for id_ in range(NUM_IDS)] for wanted in member]
    assert write(automaton, rows, automaton.roots[-1])[0] == member


@settings(deadline=None, max_examples=50)
@given(language=closed, seed=st.integers(0, 2**16))
def test_probabilities_of_all_members_add_up_to_one(language: ClosedLanguage, seed: int) -> None:
    automaton = build_automaton([language], num_ids=NUM_IDS)
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
    languages = [
        ClosedLanguage(((5,), (5, 6), (7, 8))),
        FreeLanguage(prefix=(9,), first=4, stop=6),
        ClosedLanguage(((10,),)),
    ]
    automaton = build_automaton(languages, num_ids=NUM_IDS)
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
    automaton = build_automaton([ClosedLanguage(((7, 8),))], num_ids=NUM_IDS)
    certain = [[0.0] * NUM_IDS] * 3
    assert write(automaton, certain, automaton.roots[0]) == ([7, 8, EOS], 0.0)
    ids_, log_prob = write(automaton, [[float("nan")] * NUM_IDS] * 3, automaton.roots[0])
    assert ids_ == [7, 8, EOS]
    assert log_prob != log_prob  # noqa: PLR0124 - NaN


@pytest.mark.parametrize(
    ("language", "message"),
    [
        pytest.param(ClosedLanguage(()), "language 1 is an empty closed set", id="empty set"),
        pytest.param(FreeLanguage(first=6, stop=6), "empty range of ids, 6 to 6", id="empty range"),
        pytest.param(ClosedLanguage(((4,), (12,))), "has id 12, and the vocabulary", id="outside"),
        pytest.param(FreeLanguage(first=4, stop=13), "has id 12, and the vocabulary", id="range"),
    ],
)
def test_a_language_that_cannot_be_written_is_refused(language: Language, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        build_automaton([ClosedLanguage(((4,),)), language], num_ids=NUM_IDS)
