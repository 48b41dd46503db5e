"""All answers of a closed set at once have the probability that each has alone."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import EOS, PAD
from taskloom.ops.device.automaton import build_automaton
from taskloom.ops.device.decode import weigh_answers as module
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.step import Sources
from taskloom.ops.device.decode.task import Task
from taskloom.ops.device.decode.tree import plan_tree
from taskloom.ops.device.decode.weigh_answers import weigh_answers
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.language import (
    Continuous,
    Forced,
    Free,
    Language,
    OneOf,
    Repeat,
    draw_languages,
)

from ..relative.golden import Case
from .writing import NUM_IDS, make_task, score_alone

ids = st.integers(4, NUM_IDS - 1)
closed_sets = st.sets(st.lists(ids, max_size=4).map(tuple), min_size=1, max_size=25)
languages = st.tuples(
    st.lists(ids, max_size=2).map(lambda each: Forced(tuple(each))),
    closed_sets.map(lambda answers: OneOf(sequences=tuple(sorted(answers)))),
    st.lists(ids, max_size=1).map(lambda each: Forced(tuple(each))),
)


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(language=languages, seed=st.integers(0, 99), num_together=st.sampled_from([1, 1 << 14]))
def test_the_probability_of_an_answer_is_what_it_has_alone(
    program: Any, language: Language, seed: int, num_together: int
) -> None:
    diagram = draw_languages([language], num_ids=NUM_IDS)
    automaton, tree = build_automaton(diagram), plan_tree(diagram, diagram.roots[0])
    generator = torch.Generator().manual_seed(seed)
    memory = 2 * torch.randn(9, 16, generator=generator, dtype=torch.float64)
    keys = [(0, 5), (5, 9), (0, 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_NODES", num_together)
        patch.setattr(module, "MOST_KEYS", 64 * num_together)
        log_probs_BQ = weigh_answers(make_task(program, automaton, memory, keys), tree)
    assert len(set(tree.answers)) == len(tree.answers)
    torch.testing.assert_close(log_probs_BQ.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)
    for row, source in enumerate(keys):
        expected = [
            sum(score_alone(program, automaton, memory, source, answer)) for answer in tree.answers
        ]
        assert log_probs_BQ[row].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["text_closedset_tiny", "text2text_tiny_postnorm"])
def test_relative_positions_and_what_documents_are_given_count_as_they_do_in_a_search(
    name: str,
) -> None:
    case = Case(name)
    model: Any = case.build()
    source, memory, starts = case.read_source(model)
    stack = RelativeStack(model["decoder"], model["target_tokens"], model["vocabulary"])
    answers = OneOf(sequences=((1100,), (1101, 1102, 1103), (1101, 1102), (1104, 1105, 1106, 1107)))
    diagram = draw_languages([(answers,)], num_ids=len(stack.weight_VC))
    tree, automaton = plan_tree(diagram, diagram.roots[0]), build_automaton(diagram)
    task = Task(
        stack=stack,
        automaton=automaton,
        sources=Sources(memory, torch.stack((starts[:-1], starts[1:])), 32, source["positions"]),
        roots_B=torch.tensor(automaton.roots * 3),
        max_length=12,
        given_BP=torch.tensor([[70, 71, 72], [73, PAD, PAD], [PAD, PAD, PAD]]),
        search=Search(beams=4, n_best=4, temperature=0.7),
    )
    log_probs_BQ = weigh_answers(task, tree)
    found = write(task)
    for row, start in enumerate((3, 1, 0)):
        for ids_L, log_prob in zip(found.ids_BNL[row], found.log_probs_BN[row], strict=True):
            listed = ids_L.tolist()
            answer = tuple(listed[start : listed.index(EOS) + 1])
            own = log_probs_BQ[row, tree.answers.index(answer)]
            assert float(own) == pytest.approx(float(log_prob), abs=1e-5)


@pytest.mark.parametrize(
    "language",
    [
        (Free(first=4, stop=9),),
        (Repeat((Forced((7,)), OneOf(sequences=((5,),)))),),
        (Forced((7,)), Continuous(slot="a", most=3)),
    ],
)
def test_a_language_without_end_is_no_tree(language: Language) -> None:
    diagram = draw_languages([language], num_ids=NUM_IDS)
    with pytest.raises(PlanError, match="only the answers of a closed set"):
        plan_tree(diagram, diagram.roots[0], most_nodes=1000)
