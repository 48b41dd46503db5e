"""Attention in blocks scores little that is not seen; weights are kept as they would be computed again."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from taskloom.ops.device.attention import (
    AttentionSpec,
    Relative,
    attend,
    attention,
    plan_attention,
)
from taskloom.ops.device.attention.blocks import Blocks, find_blocks
from taskloom.ops.device.attention.chunks import (
    SCORES_AT_ONCE,
    SCORES_OF_A_CHUNK,
    plan_chunks,
)
from taskloom.ops.device.attention.stages import Gathered, Stretch

from .attention_cases import Case, packed_ranges, run, tensors, with_relative


def lay_out(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ranges of documents that lie end to end and see themselves as a whole."""
    stops = np.cumsum(lengths)
    ranges = np.repeat(np.stack((stops - lengths, stops)), lengths, axis=1)
    lo_N, hi_N = torch.from_numpy(ranges)
    return lo_N, hi_N


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_documents_are_blocks_of_their_own_wherever_they_lie(lengths: list[int]) -> None:
    chunks = plan_chunks(*lay_out(lengths), sum(lengths), 64)
    scored = sum(chunk.size for chunk in chunks)
    rounded = sum(1.25 * length * max(1.25 * length, 8) for length in lengths)
    assert scored <= rounded + len(set(lengths)) * SCORES_OF_A_CHUNK


@given(length=st.integers(1, 2**12), tile=st.integers(1, 256))
def test_no_chunk_has_more_scores_than_one_block_or_so_many(length: int, tile: int) -> None:
    lo_N, hi_N = lay_out([length])
    most = max(SCORES_AT_ONCE, int(1.25 * tile * max(1.25 * length, 8)))
    assert all(chunk.size <= most for chunk in plan_chunks(lo_N, hi_N, length, tile))


@settings(max_examples=30, deadline=None)
@given(case=packed_ranges() | with_relative(packed_ranges()))
def test_weights_that_are_kept_are_those_that_are_computed_again(case: Case) -> None:
    spec = replace(case.spec, backend="blockwise", window=0, is_diagonal=False)

    def compute(case: Case, *, keeps: bool) -> torch.Tensor:
        plan = plan_attention(case.lo_N, case.hi_N, len(case.k_MHD), spec)
        assert plan.blocks is not None
        plan.blocks.keeps = keeps
        return attend(*case[:3], plan, case.relative)

    kept, again = (run(lambda c, k=k: compute(c, keeps=k), case) for k in (True, False))
    torch.testing.assert_close(kept, again, rtol=1e-12, atol=1e-12)


LEAP = st.sampled_from([0, 0, 0, 1, 2])


@settings(max_examples=400, deadline=None)
@given(data=st.data(), num_rows=st.integers(1, 60), length=st.integers(1, 8))
def test_rows_run_along_diagonals_just_where_each_score_adds_what_they_say(
    data: st.DataObject, num_rows: int, length: int
) -> None:
    lo_N, hi_N = lay_out([length])
    start = data.draw(st.integers(0, length - 1))
    hi_N[:start] = 0
    (chunk,) = plan_chunks(lo_N, hi_N, length, 64)
    key, query = np.arange(length), np.arange(length - start)[:, None]
    codes = [key, key * 0 + num_rows // 2, key * 0]
    # Codes run on, bases and slots stay, but for a leap at most.
    leaps = [(key >= data.draw(st.integers(0, length))) * data.draw(LEAP) for _ in codes]
    codes_3N = np.array([code + leap for code, leap in zip(codes, leaps, strict=True)], np.int32)
    (found,) = chunk.find_rows(codes_3N, num_rows)
    first = chunk.find_diagonal(codes_3N, num_rows)
    along = found[0, 0] - query + key
    if first is None:
        assert not np.array_equal(found, along) or (along >= num_rows).any()
    else:
        np.testing.assert_array_equal(found, first - query + key)


def test_blocks_that_are_alone_are_read_where_they_lie_and_others_gathered() -> None:
    lengths = [40, 40, 40, 400]
    blocks = Blocks(*lay_out(lengths), sum(lengths), 512)
    assert [type(stage) for stage in blocks.stages(2)] == [Gathered, Stretch]


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_document_of_many_chunks_has_the_gradients_of_plain_arithmetic(
    *, is_causal: bool
) -> None:
    length = 400
    index_N = torch.arange(length)
    hi_N = index_N + 1 if is_causal else index_N * 0 + length
    table_HR = torch.randn(2, 2 * length, generator=torch.Generator().manual_seed(0)).double()
    code_N = index_N.int()
    relative = Relative(table_HR, code_N, torch.full_like(code_N, length), code_N * 0)
    spec = AttentionSpec(backend="blockwise")
    case = Case(*tensors(0, length, length), index_N * 0, hi_N, spec, relative)
    assert len(plan_chunks(case.lo_N, case.hi_N, length, spec.tile)) > 1
    plain = case._replace(spec=replace(spec, backend="math"))
    given_, expected = (run(lambda c: attention(*c), each) for each in (case, plain))
    torch.testing.assert_close(given_, expected, rtol=1e-9, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(case=with_relative(packed_ranges()))
def test_layers_of_one_plan_may_have_tables_of_their_own_and_codes_of_their_own(
    case: Case,
) -> None:
    spec = replace(case.spec, backend="blockwise", window=0, is_diagonal=False)
    plan = plan_attention(case.lo_N, case.hi_N, len(case.k_MHD), spec)
    assert case.relative is not None
    longer = case.relative._replace(
        table_HR=torch.nn.functional.pad(case.relative.table_HR, (0, 3), value=torch.nan)
    )
    others = case.relative._replace(code_N=torch.zeros_like(case.relative.code_N))
    for relative in (case.relative, others, longer, None):
        wanted = attention(*case[:5], replace(spec, backend="math"), relative)
        torch.testing.assert_close(attend(*case[:3], plan, relative), wanted)


def test_the_host_attends_in_blocks_where_they_spare_most_of_the_scores() -> None:
    short, long = lay_out([30] * 32), lay_out([960])
    plans = [plan_attention(*ranges, 960, AttentionSpec()) for ranges in (short, long)]
    assert [plan.blocks is not None for plan in plans] == [True, False]


def test_calls_one_by_one_find_the_blocks_of_the_first_and_never_those_of_other_ranges() -> None:
    streams = q_NHD, k_MHD, v_MHD = tensors(0, 90, 90)
    for stream in streams:
        stream.requires_grad_()
    spec = AttentionSpec(backend="blockwise")
    before = find_blocks.cache_info().misses
    for lengths in ([30, 60], [45, 45], [30, 60]):
        lo_N, hi_N = (x.int() for x in lay_out(lengths))
        plan = plan_attention(lo_N, hi_N, 90, spec)._replace(blocks=None)
        for _ in range(2):
            out_NHD = attend(q_NHD, k_MHD, v_MHD, plan)
            plain = plan_attention(lo_N, hi_N, 90, replace(spec, backend="math"))
            expected = attend(q_NHD, k_MHD, v_MHD, plain)
            torch.testing.assert_close(out_NHD, expected)
            grads, wanted = (torch.autograd.grad(x.sum(), streams) for x in (out_NHD, expected))
            torch.testing.assert_close(grads, wanted)
    assert find_blocks.cache_info().misses - before == 2
