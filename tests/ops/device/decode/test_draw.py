"""What is drawn has the distribution it should have, and follows from seed and document alone."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from taskloom.ops.device.decode.draw import draw, numbers, split_keys
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.language import Free

from .writing import build, write_one

NUM_DRAWS = 20_000
probabilities = st.lists(st.floats(0.01, 1), min_size=3, max_size=8)


def shares(weights: list[float], **settings: Any) -> list[float]:
    """Return how often each option is drawn."""
    log_probs_X = torch.tensor(weights).log().log_softmax(0)
    drawn = draw(
        log_probs_X.expand(NUM_DRAWS, -1),
        numbers(1, torch.arange(NUM_DRAWS), torch.tensor([0])),
        top_k=settings.get("top_k", 0),
        top_p=settings.get("top_p", 1.0),
        temperature=settings.get("temperature", 1.0),
    )
    return (drawn.bincount(minlength=len(weights)) / NUM_DRAWS).tolist()


@settings(deadline=None, max_examples=20)
@given(weights=probabilities)
def test_options_are_drawn_as_often_as_they_are_probable(weights: list[float]) -> None:
    expected = [weight / sum(weights) for weight in weights]
    assert shares(weights) == pytest.approx(expected, abs=0.02)


@settings(deadline=None, max_examples=20)
@given(weights=probabilities, top_k=st.integers(1, 3))
def test_only_the_likeliest_are_drawn_by_top_k(weights: list[float], top_k: int) -> None:
    drawn = shares(weights, top_k=top_k)
    least = sorted(weights)[-top_k]
    assert sum(share > 0 for share in drawn) <= top_k
    assert all(weight >= least for weight, share in zip(weights, drawn, strict=True) if share)


def test_the_fewest_that_have_the_share_are_drawn_by_top_p() -> None:
    weights = [0.1, 0.4, 0.2, 0.3]
    assert [share > 0 for share in shares(weights, top_p=0.39)] == [False, True, False, False]
    assert [share > 0 for share in shares(weights, top_p=0.69)] == [False, True, False, True]
    assert shares(weights, top_p=0.69) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=0.02)
    assert shares(weights, top_p=1.0) == pytest.approx(weights, abs=0.02)
    assert shares(weights, temperature=0) == [0, 1, 0, 0]


def test_numbers_are_spread_evenly_whatever_tells_them_apart() -> None:
    keys = torch.arange(NUM_DRAWS)
    for each in (
        numbers(0, keys, torch.tensor([0])),
        numbers(2**63, keys * 2**40, torch.tensor([5])),
        numbers(7, split_keys(torch.tensor([3]), NUM_DRAWS), torch.tensor([1])),
        numbers(5, torch.tensor([9]), torch.arange(2000)),
    ):
        assert 0 <= float(each.min()) <= float(each.max()) < 1
        assert float(each.mean()) == pytest.approx(0.5, abs=0.02)
        assert each.unique().numel() == each.numel()


def test_what_is_written_is_drawn_anew_by_another_seed_and_no_other_way(program: Any) -> None:
    automaton, memory = build([(Free(first=4, stop=40),)]), torch.randn(6, 16).double()

    def ids(seed: int, **more: Any) -> list[list[int]]:
        search = Search(sample=True, beams=4, n_best=4, seed=seed, **more)
        return sorted(write_one(program, automaton, memory, search=search).ids_BNL[0].tolist())

    greedy = write_one(program, automaton, memory).ids_BNL[0].tolist()
    assert ids(0) == ids(0)
    assert ids(0) != ids(1)
    assert len({tuple(each) for each in ids(0, temperature=2.0)}) > 1
    assert ids(0, top_k=1) == ids(5, temperature=0) == ids(2, top_p=1e-9) == greedy * 4
