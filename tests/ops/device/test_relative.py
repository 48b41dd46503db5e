"""Relative biases: their sign, their bounds, their gradient, and the absolute ones that need none."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from taskloom.graph.errors import PlanError
from taskloom.ops.device.attention import AttentionSpec, Relative, attention

from .attention_cases import EXACT, Case, compute, tensors

every_backend = pytest.mark.parametrize("backend", EXACT)


def text(num_rows: int, length: int, base: int) -> Relative:
    """Return the bias of plain text: a token's code is its place."""
    generator = torch.Generator().manual_seed(num_rows)
    table_HR = torch.randn(2, num_rows, generator=generator, dtype=torch.double)
    code_N = torch.arange(length, dtype=torch.int32)
    return Relative(table_HR, code_N, torch.full_like(code_N, base), torch.zeros_like(code_N))


def whole(length: int, spec: AttentionSpec, relative: Relative | None) -> Case:
    """Return the case in which every query sees every key."""
    lo_N = torch.zeros(length, dtype=torch.int32)
    return Case(*tensors(0, length, length), lo_N, lo_N + length, spec, relative)


@every_backend
def test_a_row_is_named_by_key_minus_query(backend: str) -> None:
    table_HR = torch.zeros(2, 9, dtype=torch.double)
    table_HR[:, 4 + 2] = 1e3
    relative = text(9, 5, 4)._replace(table_HR=table_HR)
    case = whole(5, AttentionSpec(backend=backend, tile=2), relative)
    torch.testing.assert_close(compute(case)[:3], case.v_MHD[2:])


@every_backend
def test_a_table_of_query_minus_key_is_given_reversed(backend: str) -> None:
    relative = text(12, 5, 4)
    length, base = 5, 7
    reversed_ = relative._replace(
        table_HR=relative.table_HR.flip(1), base_N=torch.full_like(relative.base_N, 11 - base)
    )
    negated = relative._replace(
        code_N=-relative.code_N, base_N=torch.full_like(relative.base_N, base)
    )
    spec = AttentionSpec(backend=backend, tile=2)
    torch.testing.assert_close(
        compute(whole(length, spec, reversed_)), compute(whole(length, spec, negated))
    )


@every_backend
@pytest.mark.parametrize("is_text", [True, False], ids=["runs on", "scattered"])
def test_a_difference_outside_the_table_gives_nan_where_it_is_seen(
    backend: str, *, is_text: bool
) -> None:
    relative = text(5, 6, 2)
    code_N = relative.code_N if is_text else relative.code_N // 2 * 2
    spec = AttentionSpec(backend=backend, tile=4)
    relative = relative._replace(code_N=code_N)
    case = whole(6, spec, relative)
    # Each token sees one neighbour, but the fourth sees the first, and the last sees nothing.
    lo_N = torch.tensor([0, 0, 1, 0, 3, 6])
    hi_N = torch.tensor([2, 2, 3, 4, 5, 6])
    out = compute(case._replace(lo_N=lo_N, hi_N=hi_N))
    # With codes of two by two the fourth is as far from the first as the table reaches.
    is_lost = [False, False, False, is_text, False, False]
    assert out.isnan().all((1, 2)).tolist() == out.isnan().any((1, 2)).tolist() == is_lost
    other_slot_N = torch.tensor([1, 0, 0, 0, 0, 0], dtype=torch.int32)
    apart = relative._replace(slot_N=other_slot_N)
    out = compute(case._replace(lo_N=lo_N, hi_N=hi_N, relative=apart))
    assert out.isfinite().all()


@every_backend
def test_gradients_with_a_bias_equal_finite_differences(backend: str) -> None:
    q_NHD, k_MHD, v_MHD = (x[:, :, :2].clone().requires_grad_() for x in tensors(0, 6, 6))
    relative = text(11, 6, 5)
    slot_N = torch.tensor([0, 0, 0, 0, 1, 1], dtype=torch.int32)
    code_N = torch.tensor([0, 1, 2, 3, 3, 1], dtype=torch.int32)
    lo_N, hi_N = torch.tensor([0, 0, 0, 1, 2, 6]), torch.tensor([1, 4, 6, 6, 6, 6])
    spec = AttentionSpec(backend=backend, tile=2)

    def attend(q: Tensor, k: Tensor, v: Tensor, table_HR: Tensor) -> Tensor:
        bias = Relative(table_HR, code_N, relative.base_N, slot_N)
        return attention(q, k, v, lo_N, hi_N, spec, bias)

    table_HR = relative.table_HR.clone().requires_grad_()
    assert torch.autograd.gradcheck(attend, (q_NHD, k_MHD, v_MHD, table_HR))


@every_backend
def test_absolute_positions_fold_into_the_head(backend: str) -> None:
    q_NHD, k_MHD, v_MHD = tensors(0, 7, 7)
    position_NHD, key_position_MHD, _ = tensors(1, 7, 7)
    lo_N = torch.zeros(7, dtype=torch.int32)
    scale = (2 * q_NHD.shape[-1]) ** -0.5
    bias_HNM = torch.einsum("nhd,mhd->hnm", position_NHD, key_position_MHD)
    scores_HNM = (torch.einsum("nhd,mhd->hnm", q_NHD, k_MHD) + bias_HNM) * scale
    expected = torch.einsum("hnm,mhd->nhd", scores_HNM.softmax(-1), v_MHD)
    folded_NHD = torch.cat((q_NHD, position_NHD), -1)
    folded_MHD = torch.cat((k_MHD, key_position_MHD), -1)
    out = attention(
        folded_NHD, folded_MHD, v_MHD, lo_N, lo_N + 7, AttentionSpec(backend=backend, tile=4)
    )
    torch.testing.assert_close(out, expected)


def test_a_long_stream_with_a_bias_is_computed_a_few_scores_at_a_time() -> None:
    length, num_heads = 1024, 2
    relative = text(2 * length, length, length)
    case = whole(length, AttentionSpec(is_relative=True), relative)
    with profile(profile_memory=True) as seen:
        compute(case)
    largest = max(event.self_cpu_memory_usage for event in seen.events() or [])
    assert largest <= 2 * 64 * length * num_heads * 8


@pytest.mark.parametrize(
    ("num_keys", "num_codes", "num_heads", "message"),
    [
        pytest.param(4, 5, 2, "one stream, got 5 queries, 4 keys and 5 codes", id="two streams"),
        pytest.param(5, 6, 2, "one stream, got 5 queries, 5 keys and 6 codes", id="other codes"),
        pytest.param(5, 5, 1, "a row per head, got 1 and 2", id="heads"),
    ],
)
def test_a_bias_that_fits_no_stream_is_refused(
    num_keys: int, num_codes: int, num_heads: int, message: str
) -> None:
    relative = text(9, num_codes, 4)
    relative = relative._replace(table_HR=relative.table_HR[:num_heads])
    lo_N = torch.zeros(5, dtype=torch.int32)
    with pytest.raises(PlanError, match=re.escape(message)):
        compute(Case(*tensors(0, 5, num_keys), lo_N, lo_N + 4, AttentionSpec(), relative))
