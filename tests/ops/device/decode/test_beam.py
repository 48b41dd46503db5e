"""A search that follows enough beams finds the best of all targets; one that follows fewer keeps its rules."""

from __future__ import annotations

from itertools import product
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from taskloom.graph.vocabulary import BOS, EOS
from taskloom.ops.device.decode.beam import read_beams, search_beams
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.language import Forced, Free, OneOf

from .writing import build, make_task, score_alone, write_one

FREE = (Free(first=4, stop=7),)
ANY = (Free(first=4, stop=40),)
MAX_LENGTH = 4
ALL = [[*ids, EOS] for length in range(MAX_LENGTH) for ids in product(range(4, 7), repeat=length)]
SAME_PROGRAM = settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = st.integers(0, 2**16)


def draw_memory(seed: int, length: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(length, 16, generator=generator, dtype=torch.float64)


def words(ids: list[int]) -> list[int]:
    """Return ids up to the end."""
    return ids[: ids.index(EOS)] if EOS in ids else ids


@SAME_PROGRAM
@given(seed=seeds, penalty=st.sampled_from([0.0, 0.6, 1.0, -1.0]))
def test_beams_enough_for_all_targets_find_all_of_them_in_order(
    program: Any, seed: int, penalty: float
) -> None:
    automaton, memory = build([FREE]), draw_memory(seed)
    search = Search(beams=len(ALL), n_best=len(ALL), length_penalty=penalty)
    out = write_one(program, automaton, memory, search=search, max_length=MAX_LENGTH)
    scores = {
        tuple(ids): sum(score_alone(program, automaton, memory, (0, 6), ids)) / len(ids) ** penalty
        for ids in ALL
    }
    found = [(*words(ids), EOS) for ids in out.ids_BNL[0].tolist()]
    assert sorted(found) == sorted(scores)
    assert out.scores_BN[0].tolist() == pytest.approx(
        sorted(scores.values(), reverse=True), abs=1e-5
    )
    assert [scores[ids] for ids in found] == pytest.approx(out.scores_BN[0].tolist(), abs=1e-5)


@SAME_PROGRAM
@given(seed=seeds, ngram=st.integers(0, 2), shortest=st.integers(0, 3))
def test_one_beam_is_greedy(program: Any, seed: int, ngram: int, shortest: int) -> None:
    search = Search(no_repeat_ngram=ngram, min_length=shortest)
    memory = draw_memory(seed)
    task = make_task(program, build([ANY]), memory, [(0, 3), (3, 6)], search=search)
    *_, last = search_beams(task)
    by_beams, greedy = read_beams(task, last), write(task)
    assert torch.equal(by_beams.ids_BNL, greedy.ids_BNL)
    torch.testing.assert_close(by_beams.scores_BN, greedy.scores_BN)


@SAME_PROGRAM
@given(seed=seeds, length=st.integers(1, 3), beams=st.sampled_from([1, 3]))
def test_no_run_of_ids_comes_twice(program: Any, seed: int, length: int, beams: int) -> None:
    memory = draw_memory(seed)
    search = Search(beams=beams, n_best=beams, no_repeat_ngram=length, min_length=15)
    out = write_one(program, build([ANY]), memory, search=search, max_length=16)
    for ids in out.ids_BNL[0].tolist():
        runs = [tuple([BOS, *ids][at : at + length]) for at in range(len(ids) + 2 - length)]
        assert len(set(runs)) == len(runs)


@SAME_PROGRAM
@given(seed=seeds, shortest=st.integers(0, 5), beams=st.sampled_from([1, 4]))
def test_targets_have_the_length_that_was_asked_for_and_end(
    program: Any, seed: int, shortest: int, beams: int
) -> None:
    search = Search(beams=beams, n_best=beams, min_length=shortest)
    out = write_one(program, build([ANY]), draw_memory(seed), search=search, max_length=6)
    assert all(shortest <= len(words(ids)) <= 5 for ids in out.ids_BNL[0].tolist())
    assert out.is_finished_BN.all()


@pytest.mark.parametrize("search", [Search(), Search(beams=3, n_best=3)])
def test_targets_begin_with_the_prefix_and_its_probability_counts(
    program: Any, search: Search
) -> None:
    automaton, memory = build([ANY]), draw_memory(1)
    out = write_one(program, automaton, memory, search=search, prefix=(9, 9, 11))
    for place in range(search.n_best):
        ids = [*words(out.ids_BNL[0, place].tolist()), EOS]
        assert ids[:3] == [9, 9, 11]
        expected = sum(score_alone(program, automaton, memory, (0, 6), ids))
        assert float(out.log_probs_BN[0, place]) == pytest.approx(expected, abs=1e-5)


def test_what_the_task_allows_goes_before_any_limit(program: Any) -> None:
    automaton = build([(Forced((7, 7, 7, 7)), OneOf(sequences=((5,), (5, 5, 5))))])
    search = Search(no_repeat_ngram=1, min_length=7, beams=2, n_best=2)
    out = write_one(program, automaton, draw_memory(0), search=search, prefix=(30,))
    # After the first 5, another one would repeat it; the end comes too early, and is all that is left.
    assert words(out.ids_BNL[0, 0].tolist()) == [7] * 4 + [5]
    assert out.scores_BN[0].isinf().tolist() == [False, True]


def test_a_small_closed_set_leaves_places_of_the_n_best_empty(program: Any) -> None:
    automaton = build([(OneOf(sequences=((5,), (6, 7))),)])
    search = Search(beams=4, n_best=4)
    out = write_one(program, automaton, draw_memory(0), search=search)
    assert sorted(map(words, out.ids_BNL[0, :2].tolist())) == [[5], [6, 7]]
    assert out.scores_BN[0, 2:].tolist() == [-torch.inf] * 2
    assert float(out.log_probs_BN[0, :2].exp().sum()) == pytest.approx(1, abs=1e-5)


@SAME_PROGRAM
@given(seed=seeds)
def test_groups_that_do_not_shun_each_other_find_the_same(program: Any, seed: int) -> None:
    memory, automaton = draw_memory(seed), build([ANY])
    alone = write_one(program, automaton, memory, search=Search(beams=2, n_best=2))
    search = Search(beams=6, n_best=6, groups=3)
    groups = write_one(program, automaton, memory, search=search)
    found = groups.ids_BNL[0].tolist()
    assert sorted(found) == sorted(alone.ids_BNL[0].tolist() * 3)


@SAME_PROGRAM
@given(seed=seeds, is_closed=st.booleans())
def test_groups_that_shun_each_other_enough_begin_differently(
    program: Any, seed: int, *, is_closed: bool
) -> None:
    answers = OneOf(sequences=tuple((id_, 12, 13) for id_ in range(4, 9)))
    automaton = build([(answers,) if is_closed else ANY])
    search = Search(beams=3, n_best=3, groups=3, diversity=1e4, min_length=1)
    memory = draw_memory(seed)
    out = write_one(program, automaton, memory, search=search, max_length=4)
    assert len({ids[0] for ids in out.ids_BNL[0].tolist()}) == 3
    # What decided is no part of the probability.
    for ids, log_prob in zip(out.ids_BNL[0].tolist(), out.log_probs_BN[0].tolist(), strict=True):
        expected = score_alone(program, automaton, memory, (0, 6), [*words(ids), EOS])
        assert log_prob == pytest.approx(sum(expected), abs=1e-4)
