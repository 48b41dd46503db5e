"""Every back end of attention equals a query by query computation, and empty ranges cost nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from taskloom.graph.errors import PlanError
from taskloom.ops.device.attention import (
    AttentionSpec,
    attend,
    attention,
    plan_attention,
)

from .attention_cases import (
    EXACT,
    Case,
    any_ranges,
    compute,
    cross_ranges,
    oracle,
    packed_ranges,
    run,
    tensors,
    with_relative,
)

every_backend = pytest.mark.parametrize("backend", [*EXACT, "auto"])


def check_every_backend(case: Case) -> None:
    expected, expected_grads = run(oracle, case)
    for backend in EXACT:
        out, grads = run(compute, case._replace(spec=replace(case.spec, backend=backend)))
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(case=cross_ranges())
def test_targets_that_look_at_their_sources_equal_the_oracle(case: Case) -> None:
    check_every_backend(case)


@settings(max_examples=60, deadline=None)
@given(case=any_ranges() | with_relative(any_ranges()))
def test_any_ranges_equal_the_oracle(case: Case) -> None:
    check_every_backend(case)


@settings(max_examples=60, deadline=None)
@given(case=packed_ranges() | with_relative(packed_ranges()))
def test_packed_documents_in_narrow_windows_equal_the_oracle(case: Case) -> None:
    check_every_backend(case)


@every_backend
def test_empty_ranges_give_zero_and_zero_gradients_even_of_great_scores(backend: str) -> None:
    q_NHD, k_MHD, v_MHD = (1e150 * x for x in tensors(0, 8, 8))
    lo_N = torch.tensor([0, 3, 3, 0, 8, 5, 2, 0])
    hi_N = torch.tensor([0, 3, 1, 2, 8, 5, 2, 0])
    case = Case(q_NHD, k_MHD, v_MHD, lo_N, hi_N, AttentionSpec(backend=backend, tile=4, window=4))
    out, (grad_q, grad_k, grad_v) = run(compute, case)
    is_empty_N = hi_N <= lo_N
    assert torch.equal(out[is_empty_N], torch.zeros_like(out[is_empty_N]))
    assert torch.equal(grad_q[is_empty_N], torch.zeros_like(grad_q[is_empty_N]))
    for grad in (grad_k, grad_v):
        assert torch.equal(grad[2:], torch.zeros_like(grad[2:]))
        assert grad.isfinite().all()


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("window", [0, 4])
def test_gradients_equal_finite_differences(backend: str, window: int) -> None:
    q_NHD, k_MHD, v_MHD = (x[:5, :1, :2].clone().requires_grad_() for x in tensors(0, 5, 5))
    lo_N, hi_N = torch.tensor([0, 0, 2, 2, 4]), torch.tensor([1, 2, 3, 5, 4])
    spec = AttentionSpec(backend=backend, tile=2, window=window)
    assert torch.autograd.gradcheck(
        lambda q, k, v: attention(q, k, v, lo_N, hi_N, spec), (q_NHD, k_MHD, v_MHD)
    )


def test_a_range_that_leaves_its_window_gives_nan_and_spares_the_others() -> None:
    q_NHD, k_MHD, v_MHD = tensors(0, 8, 16)
    lo_N = torch.tensor([0, 0, 4, 4, 12, 12, 12, 12])
    hi_N = torch.tensor([4, 9, 8, 8, 16, 16, 17, 12])
    spec = AttentionSpec(backend="blockwise", tile=4, window=8)
    out = attention(q_NHD, k_MHD, v_MHD, lo_N, hi_N, spec)
    is_lost = [False, True, *[False] * 4, True, False]
    assert out.isnan().all((1, 2)).tolist() == out.isnan().any((1, 2)).tolist() == is_lost


@every_backend
def test_a_range_that_leaves_the_keys_gives_nan_and_spares_the_others(backend: str) -> None:
    lo_N, hi_N = torch.tensor([0, -1, 2, 4, 9]), torch.tensor([4, 2, 5, 4, 9])
    case = Case(*tensors(0, 5, 4), lo_N, hi_N, AttentionSpec(backend=backend, tile=2))
    is_lost = [False, True, True, False, False]
    out = compute(case)
    assert out.isnan().all((1, 2)).tolist() == out.isnan().any((1, 2)).tolist() == is_lost


@settings(max_examples=20, deadline=None)
@given(case=packed_ranges() | with_relative(packed_ranges()))
def test_single_precision_stays_close_to_the_oracle(case: Case) -> None:
    single = case.having([x.float() for x in case.inputs])
    torch.testing.assert_close(compute(single), oracle(case).float(), rtol=1e-5, atol=1e-5)


@every_backend
def test_half_precision_stays_close_to_the_oracle(backend: str) -> None:
    inputs = tensors(0, 32, 32)
    half = [x.bfloat16() for x in inputs]
    start_N = torch.arange(32) // 8 * 8
    spec = AttentionSpec.within_documents(8, tile=8, backend=backend)
    case = Case(*inputs, start_N, start_N + 8, spec).having([x.double() for x in half])
    out, grads = run(compute, case)
    half_out, half_grads = run(compute, case.having(half))
    assert half_out.dtype is torch.bfloat16
    for half_value, value in zip((half_out, *half_grads), (out, *grads), strict=True):
        torch.testing.assert_close(half_value.double(), value, rtol=0.05, atol=0.05)


def test_a_plan_serves_many_layers() -> None:
    q_NHD, k_MHD, _ = tensors(0, 8, 8)
    lo_N, hi_N = torch.tensor([[0] * 8, [8] * 8])
    plan = plan_attention(lo_N, hi_N, 8, AttentionSpec())
    once = attend(q_NHD, k_MHD, k_MHD, plan)
    again = attention(once, once, once, lo_N, hi_N, AttentionSpec())
    assert torch.equal(attend(once, once, once, plan), again)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param({"backend": "blockwize"}, "did you mean blockwise", id="unknown back end"),
        pytest.param({"tile": 0}, "tile must be at least 1, got 0", id="no tile"),
        pytest.param({"tile": 4, "window": 6}, "multiple of tile, got 6 and 4", id="ragged window"),
        pytest.param(
            {"tile": 4, "window": 8, "is_diagonal": True}, "window of one tile", id="wide"
        ),
    ],
)
def test_a_spec_refuses_what_cannot_be(params: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        AttentionSpec(**params)  # pyright: ignore[reportArgumentType]


def test_a_diagonal_needs_as_many_keys_as_queries() -> None:
    lo_N, hi_N = torch.zeros(2, 4, dtype=torch.int32)
    with pytest.raises(PlanError, match="as many keys as queries, got 8 and 4"):
        plan_attention(lo_N, hi_N, 8, AttentionSpec.within_documents(4, tile=4))


@settings(max_examples=30, deadline=None)
@given(case=packed_ranges() | with_relative(packed_ranges()))
def test_a_pack_equals_its_documents_one_by_one(case: Case) -> None:
    lo_N, hi_N = case.lo_N, case.hi_N
    starts = sorted({(lo, max(hi_N[lo_N == lo].tolist())) for lo in lo_N[hi_N > lo_N].tolist()})
    for backend in EXACT:
        packed = case._replace(spec=replace(case.spec, backend=backend))
        out = compute(packed)
        for start, stop in starts:
            torch.testing.assert_close(out[start:stop], compute(alone(packed, start, stop)))


def alone(case: Case, start: int, stop: int) -> Case:
    """Return the case of one document."""
    own = slice(start, stop)
    relative = case.relative and case.relative._replace(
        **{name: getattr(case.relative, name)[own] for name in ("code_N", "base_N", "slot_N")}
    )
    q_NHD, k_MHD, v_MHD, lo_N, hi_N = (x[own] for x in case[:5])
    spec = AttentionSpec(backend=case.spec.backend, tile=case.spec.tile)
    return Case(q_NHD, k_MHD, v_MHD, lo_N - start, hi_N - start, spec, relative)
