"""Queries beside tiles of keys: the host attends so where it takes least, and compiled layers do not notice."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from taskloom.ops.device.attention import AttentionSpec, key_tiles, plan_attention
from taskloom.ops.device.layer import CrossAttention, LayerShape

from .attention_cases import Case, any_ranges, compute, cross_ranges, oracle, packed_ranges, run

ANSWER = 2
"""Queries of a document."""


def look_back(lengths: list[int], num_queries: int) -> tuple[Tensor, Tensor]:
    """Return the ranges of short answers to sources that lie end to end, and of queries behind them."""
    stops = list(accumulate(lengths))
    ranges = [[stop - length, stop] for length, stop in zip(lengths, stops, strict=True)]
    told = [each for each in ranges for _ in range(ANSWER)]
    lo_N, hi_N = torch.tensor(told + [[0, 0]] * (num_queries - len(told)), dtype=torch.int32).T
    return lo_N.contiguous(), hi_N.contiguous()


@settings(max_examples=150, deadline=None)
@given(
    case=any_ranges() | packed_ranges() | cross_ranges(),
    least=st.integers(1, 4),
    is_filled=st.booleans(),
)
def test_queries_beside_tiles_of_any_size_equal_the_oracle(
    case: Case, least: int, *, is_filled: bool
) -> None:
    # Heads of values are smaller than those of keys, or of one size.
    case = case if is_filled else case.having([x[..., :4] for x in case.inputs])
    expected = run(oracle, case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_tiles, "LEAST_TILE", least)
        patch.setattr(key_tiles, "PRICE_OF_BLOCKS", 2**30)
        own = case._replace(spec=replace(case.spec, window=0, is_diagonal=False))
        plan = plan_attention(own.lo_N, own.hi_N, len(own.k_MHD), own.spec)
        assert plan.key_tiles is not None
        torch.testing.assert_close(run(compute, own), expected, rtol=1e-9, atol=1e-10)


@given(exponent=st.integers(4, 7), number=st.integers(2, 12), data=st.data())
def test_tiles_are_as_small_as_documents_within_their_limits_allow(
    exponent: int, number: int, data: st.DataObject
) -> None:
    size = 2**exponent
    longest = data.draw(st.integers(size // 2 + 1, size))
    lo_N, _ = look_back([size] * number, ANSWER * number)
    plan = plan_attention(lo_N, lo_N + longest, size * number, AttentionSpec())
    assert plan.key_tiles is not None
    assert plan.key_tiles.size == size
    assert plan.key_tiles.bias.shape == (number, 1, ANSWER, size)


def test_the_host_moves_few_queries_many_documents_and_nothing_of_a_long_one() -> None:
    short = look_back([32] * 32, 2 * ANSWER * 32)
    crooked = look_back([33] * 32, 2 * ANSWER * 32)
    long = torch.zeros(1056).int(), torch.full((1056,), 1056).int()
    plans = [plan_attention(*ranges, 1056, AttentionSpec()) for ranges in (short, crooked, long)]
    moved = [plan.key_tiles and plan.key_tiles.query_X is not None for plan in plans]
    assert moved == [True, None, False]
    assert plans[1].blocks is not None


def test_a_compiled_layer_is_not_compiled_anew_for_ranges_that_suit_something_else() -> None:
    num_queries, num_keys = 2 * ANSWER * 32, 1056
    shape = LayerShape(32, 2, 64, 0.0, 1)
    layer = CrossAttention(shape)
    ranges = [look_back([size] * 32, num_queries) for size in (32, 33)]
    ranges.append((torch.zeros(num_queries).int(), torch.full((num_queries,), num_keys).int()))
    plans = [plan_attention(*each, num_keys, AttentionSpec()) for each in ranges]
    assert len({(plan.key_tiles is None, plan.blocks is None) for plan in plans}) == 2
    x_NC, memory_MC = torch.randn(num_queries, 32), torch.randn(num_keys, 32)
    expected = [layer(x_NC, memory_MC, plan) for plan in plans]
    layer.compile(backend="eager", fullgraph=True, dynamic=False)
    for number, plan in enumerate(plans):
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            torch.testing.assert_close(layer(x_NC, memory_MC, plan), expected[number])
