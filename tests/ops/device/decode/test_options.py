"""Options of a closed set are those of a tree of dicts, with the probabilities of a mask over all ids."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import EOS, PAD
from taskloom.ops.device.automaton import build_automaton
from taskloom.ops.device.decode.options import PART, Chooser, Options
from taskloom.ops.device.decode.pad_table import pad_table
from taskloom.ops.device.decode.rotary_stack import RotaryStack
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.embedding import TokenTable
from taskloom.ops.device.language import Forced, Free, OneOf, draw_languages

from .writing import NUM_IDS, build

ids = st.integers(4, NUM_IDS - 1)
closed_sets = st.sets(st.lists(ids, max_size=5).map(tuple), min_size=1, max_size=30)


def make_tree(answers: set[tuple[int, ...]]) -> dict[int, Any]:
    """Return a tree of dicts, as one would write it."""
    root: dict[int, Any] = {}
    for answer in answers:
        node = root
        for id_ in (*answer, EOS):
            node = node.setdefault(id_, {})
    return root


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(answers=closed_sets, data=st.data())
def test_options_are_the_children_of_a_tree_of_dicts(
    program: Any, answers: set[tuple[int, ...]], data: st.DataObject
) -> None:
    automaton = build([(OneOf(sequences=tuple(sorted(answers))),)])
    stack = RotaryStack(program.decoder, program.table)
    chooser = Chooser.of(automaton, stack, 1.0)
    assert chooser.head_UC is not None
    assert len(chooser.head_UC) == len({EOS, PAD}.union(*answers))
    tree = make_tree(answers)
    paths = data.draw(st.lists(st.sampled_from(sorted(answers)), min_size=1, max_size=4))
    nodes, states = [tree] * len(paths), torch.tensor(automaton.roots * len(paths))
    for depth in range(6):
        hidden_RC = torch.randn(len(paths), 16).double()
        options = chooser.weigh(stack, hidden_RC, states)
        assert options.ids_RX is not None
        scores_RV = stack.score(hidden_RC).detach()
        for row, node in enumerate(nodes):
            is_option_X = options.log_probs_RX[row] > -torch.inf
            children = sorted(node) or [PAD]
            assert sorted(options.ids_RX[row, is_option_X].tolist()) == children
            expected_V = torch.full((NUM_IDS,), -torch.inf).double()
            expected_V[children] = scores_RV[row, children].log_softmax(0)
            of_option_X = expected_V[options.ids_RX[row].clamp(min=0)].where(
                is_option_X, -torch.inf
            )
            torch.testing.assert_close(
                options.log_probs_RX[row].double(), of_option_X, atol=1e-5, rtol=1e-5
            )
        taken = [(*path, EOS, *[PAD] * 6)[depth] for path in paths]
        rows_R = torch.arange(len(paths))
        columns_R = options.where_id(torch.tensor(taken)).long().argmax(1)
        assert options.pick_ids(rows_R, columns_R).tolist() == taken
        states = chooser.follow(options, states, rows_R, columns_R)
        nodes = [node.get(id_, {}) for node, id_ in zip(nodes, taken, strict=True)]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"beams": 0}, "beams must be at least 1, got 0"),
        ({"n_best": 2}, "n_best is 2, and beams only 1"),
        ({"beams": True}, "beams must be a whole number, got True"),
        ({"beams": 4, "groups": 3}, "4 beams do not divide into 3 groups"),
        ({"beams": 4, "groups": 2, "sample": True}, "what is drawn has no groups"),
        ({"top_p": 0.0, "sample": True}, "top_p must be more than 0 and at most 1, got 0.0"),
        ({"top_k": 5}, "nothing is drawn, and top_k"),
        ({"temperature": 0}, "nothing is drawn, and top_k, top_p or a temperature of 0"),
        ({"temperature": float("nan"), "sample": True}, "temperature must be at least 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_length": 3, "min_length": 3}, "min_length is 3, max_length 3"),
        ({"sample": 1}, "sample must be true or false, got 1"),
        ({"length_penalty": float("inf")}, "length_penalty must be finite, got inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        Search(**settings_)
    assert {problem.code for problem in caught.value.problems} == {"T0244"}


def test_masks_made_ahead_hide_what_masks_made_at_every_step_do(program: Any) -> None:
    automaton = build([(Forced((7,)), Free(first=4, stop=9)), (Free(first=20, stop=30),)])
    stack = RotaryStack(program.decoder, program.table)
    ahead = Chooser.of(automaton, stack, 0.5)
    assert ahead.hidden_SV is not None
    states = torch.arange(len(automaton.ranges_S2))
    hidden_RC = torch.randn(len(states), 16).double()
    with torch.no_grad():
        one, other = (
            each.weigh(stack, hidden_RC, states) for each in (ahead, replace(ahead, hidden_SV=None))
        )
    assert torch.equal(one.log_probs_RX, other.log_probs_RX)
    assert torch.equal(one.log_probs_RX > -torch.inf, automaton.is_allowed(states, NUM_IDS))


@torch.no_grad()
def test_a_table_that_is_padded_scores_as_before_and_nothing_else_is_allowed(program: Any) -> None:
    num_ids = PART + 9
    table, padded = (TokenTable(num_ids, 16) for _ in range(2))
    padded.load_state_dict(table.state_dict())
    pad_table(padded)
    hidden_RC = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    assert len(padded.weight_VC) == 2 * PART
    assert not padded.weight_VC[num_ids:].any()
    diagram = draw_languages([(Free(first=4, stop=num_ids),)], num_ids=num_ids)
    automaton = build_automaton(diagram)
    states_R = torch.full((5,), automaton.roots[0])
    one, other = (
        Chooser.of(automaton, stack, 1.0).weigh(stack, hidden_RC, states_R)
        for stack in (RotaryStack(program.decoder, each) for each in (table, padded))
    )
    torch.testing.assert_close(one.norms_R1, other.norms_R1)
    torch.testing.assert_close(one.scores_RX, other.scores_RX[:, :num_ids])
    assert (other.scores_RX[:, num_ids:] == -torch.inf).all()
    assert torch.equal(one.best(), other.best())


@settings(deadline=None, max_examples=30)
@given(data=st.data(), seed=st.integers(0, 99))
def test_the_best_of_parts_is_the_first_of_the_best_and_nan_before_all(
    data: st.DataObject, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few values, so that many are equal.
    scores_RX = torch.randint(3, (3, 3 * PART), generator=generator).float()
    place = st.integers(0, 3 * PART - 1)
    for row in range(3):
        value = data.draw(st.sampled_from((5.0, torch.nan, -torch.inf)))
        scores_RX[row, data.draw(st.lists(place, max_size=3))] = value
    best_R = Options(scores_RX, scores_RX[:, :1]).best()
    assert torch.equal(best_R, scores_RX.argmax(-1))


def test_a_score_that_is_nan_makes_nothing_allowed_that_is_not() -> None:
    automaton = build([(OneOf(sequences=((5,), (6, 7), (8,))),)])
    chooser = Chooser(automaton=automaton, temperature=1.0)
    begun, after_6 = (
        automaton.roots[0],
        automaton.advance(torch.tensor(automaton.roots), torch.tensor([6])),
    )
    scores_RU = torch.zeros(2, len(automaton.used_U))
    scores_RU[:, automaton.used_U == 7] = torch.nan
    options = chooser.look_up(scores_RU, torch.tensor([begun, int(after_6)]))
    assert options.ids_RX is not None
    assert options.ids_RX.tolist() == [[5, 6, 8], [7, -1, -1]]
    expected = torch.tensor([[-math.log(3)] * 3, [torch.nan, -torch.inf, -torch.inf]])
    torch.testing.assert_close(options.log_probs_RX, expected, equal_nan=True)
    assert options.best()[1] == 0
