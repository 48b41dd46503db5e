"""Every back end of attention equals a query by query computation, and empty ranges cost nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from taskloom.graph.errors import PlanError
from taskloom.ops.device.attention import (
    BACKENDS,
    AttentionSpec,
    attend,
    attention,
    plan_attention,
)

every_backend = pytest.mark.parametrize("backend", [*BACKENDS, "auto"])


class Case(NamedTuple):
    """Queries, keys, values and ranges, and specs under which they are lawful."""

    q_NHD: Tensor
    k_MHD: Tensor
    v_MHD: Tensor
    lo_N: Tensor
    hi_N: Tensor
    spec: AttentionSpec


def tensors(seed: int, num_queries: int, num_keys: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    num_heads, head_size = 2, 4
    return (
        torch.randn(num_queries, num_heads, head_size, generator=generator, dtype=torch.double),
        torch.randn(num_keys, num_heads, head_size, generator=generator, dtype=torch.double),
        torch.randn(num_keys, num_heads, head_size, generator=generator, dtype=torch.double),
    )


@st.composite
def any_ranges(draw: st.DrawFn) -> Case:
    """Ranges of any kind, empty ones among them, in windows that span all keys."""
    num_queries, num_keys = draw(st.integers(1, 21)), draw(st.integers(1, 21))
    index = np.arange(num_queries)
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    random = np.sort(rng.integers(0, num_keys + 1, (2, num_queries)), axis=0)
    causal = np.stack([index * 0, np.minimum(index + 1, num_keys)])
    full = np.stack([index * 0, index * 0 + num_keys])
    prefix = np.stack([index * 0, np.clip(index + 1, num_keys // 2, num_keys)])
    lo, hi = draw(st.sampled_from([random, causal, full, prefix, full * 0]))
    tile = draw(st.integers(1, 8))
    return Case(
        *tensors(seed, num_queries, num_keys),
        torch.tensor(lo, dtype=torch.int32),
        torch.tensor(hi, dtype=torch.int32),
        AttentionSpec(tile=tile),
    )


@st.composite
def packed_ranges(draw: st.DrawFn) -> Case:
    """Documents aligned to tiles, with gaps between them, causal or not, in windows that just hold them."""
    tile, longest = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    length = draw(st.integers(1, 8)) * tile - draw(st.integers(0, tile - 1))
    ranges = np.zeros((2, length), np.int32)
    is_causal = draw(st.booleans())
    start = 0
    for size in draw(st.lists(st.integers(1, longest), max_size=12)):
        if start // tile != (start + size - 1) // tile:
            start = -(-start // tile) * tile
        if start + size > length:
            break
        stop = start + size
        ranges[0, start:stop] = start
        ranges[1, start:stop] = np.arange(start + 1, stop + 1) if is_causal else stop
        start = stop + draw(st.integers(0, 1))
    return Case(
        *tensors(length, length, length),
        torch.from_numpy(ranges[0]),
        torch.from_numpy(ranges[1]),
        AttentionSpec.within_documents(longest, tile=tile),
    )


@st.composite
def cross_ranges(draw: st.DrawFn) -> Case:
    """Targets that look at their sources, in the narrowest window of whole tiles that holds them."""
    tile = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=8))
    sources, targets = np.array(sizes).T
    stops = np.cumsum(sources)
    lo, hi = np.repeat(stops - sources, targets), np.repeat(stops, targets)
    window = 0
    for first in range(0, len(lo), tile):
        start, stop = (
            lo[first : first + tile].min() // tile,
            -(-hi[first : first + tile].max() // tile),
        )
        window = max(window, int(stop - start))
    num_keys = max(1, int(stops[-1]))
    return Case(
        *tensors(num_keys, len(lo), num_keys),
        torch.from_numpy(lo),
        torch.from_numpy(hi),
        AttentionSpec(tile=tile, window=window * tile),
    )


def oracle(case: Case) -> Tensor:
    """Attend one query at a time."""
    rows: list[Tensor] = []
    for q_HD, lo, hi in zip(case.q_NHD, case.lo_N.tolist(), case.hi_N.tolist(), strict=True):
        k_KHD, v_KHD = case.k_MHD[lo:hi], case.v_MHD[lo:hi]
        weight_KH = ((k_KHD * q_HD).sum(-1) * q_HD.shape[-1] ** -0.5).softmax(0)
        rows.append((weight_KH[..., None] * v_KHD).sum(0))
    return torch.stack(rows)


def run(compute: Callable[..., Tensor], case: Case) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the output and the gradients of queries, keys and values."""
    inputs = [x.clone().requires_grad_() for x in case[:3]]
    out = compute(*inputs)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.double).to(out.dtype)
    return out, torch.autograd.grad((out * weights).sum(), inputs, materialize_grads=True)


def check_every_backend(case: Case) -> None:
    expected, expected_grads = run(lambda q, k, v: oracle(Case(q, k, v, *case[3:])), case)
    for backend in BACKENDS:
        spec = replace(case.spec, backend=backend)
        out, grads = run(partial(attend_to, case.lo_N, case.hi_N, spec), case)
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(case=cross_ranges())
def test_targets_that_look_at_their_sources_equal_the_oracle(case: Case) -> None:
    check_every_backend(case)


def attend_to(
    lo_N: Tensor, hi_N: Tensor, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    return attention(q, k, v, lo_N, hi_N, spec)


@settings(max_examples=60, deadline=None)
@given(case=any_ranges())
def test_any_ranges_equal_the_oracle(case: Case) -> None:
    check_every_backend(case)


@settings(max_examples=60, deadline=None)
@given(case=packed_ranges())
def test_packed_documents_in_narrow_windows_equal_the_oracle(case: Case) -> None:
    check_every_backend(case)


@every_backend
def test_empty_ranges_give_zero_and_zero_gradients_even_of_great_scores(backend: str) -> None:
    q_NHD, k_MHD, v_MHD = (1e150 * x for x in tensors(0, 8, 8))
    lo_N = torch.tensor([0, 3, 3, 0, 8, 5, 2, 0])
    hi_N = torch.tensor([0, 3, 1, 2, 8, 5, 2, 0])
    case = Case(q_NHD, k_MHD, v_MHD, lo_N, hi_N, AttentionSpec(backend=backend, tile=4, window=4))
    out, (grad_q, grad_k, grad_v) = run(lambda q, k, v: attention(q, k, v, *case[3:]), case)
    is_empty_N = hi_N <= lo_N
    assert torch.equal(out[is_empty_N], torch.zeros_like(out[is_empty_N]))
    assert torch.equal(grad_q[is_empty_N], torch.zeros_like(grad_q[is_empty_N]))
    for grad in (grad_k, grad_v):
        assert torch.equal(grad[2:], torch.zeros_like(grad[2:]))
        assert grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_equal_finite_differences(backend: str) -> None:
    q_NHD, k_MHD, v_MHD = (x[:5, :1, :2].clone().requires_grad_() for x in tensors(0, 5, 5))
    ranges = torch.tensor([0, 0, 2, 2, 4]), torch.tensor([1, 2, 3, 5, 4])
    spec = AttentionSpec(backend=backend, tile=2, window=4)
    assert torch.autograd.gradcheck(
        lambda q, k, v: attention(q, k, v, *ranges, spec), (q_NHD, k_MHD, v_MHD)
    )


def test_a_range_that_leaves_its_window_gives_nan_and_spares_the_others() -> None:
    q_NHD, k_MHD, v_MHD = tensors(0, 8, 16)
    lo_N = torch.tensor([0, 0, 4, 4, 12, 12, 12, 12])
    hi_N = torch.tensor([4, 9, 8, 8, 16, 16, 17, 12])
    spec = AttentionSpec(backend="blockwise", tile=4, window=8)
    out = attention(q_NHD, k_MHD, v_MHD, lo_N, hi_N, spec)
    is_lost = [False, True, *[False] * 4, True, False]
    assert out.isnan().all((1, 2)).tolist() == out.isnan().any((1, 2)).tolist() == is_lost


@settings(max_examples=20, deadline=None)
@given(case=packed_ranges())
def test_single_precision_stays_close_to_the_oracle(case: Case) -> None:
    expected = oracle(case)
    single = (x.float() for x in case[:3])
    out = attend_to(case.lo_N, case.hi_N, case.spec, *single)
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-5)


@every_backend
def test_half_precision_stays_close_to_the_oracle(backend: str) -> None:
    q_NHD, k_MHD, v_MHD = (x.bfloat16() for x in tensors(0, 32, 32))
    start_N = torch.arange(32) // 8 * 8
    spec = AttentionSpec.within_documents(8, tile=8, backend=backend)
    half = Case(q_NHD, k_MHD, v_MHD, start_N, start_N + 8, spec)
    case = Case(q_NHD.double(), k_MHD.double(), v_MHD.double(), start_N, start_N + 8, spec)
    out, grads = run(partial(attend_to, start_N, start_N + 8, spec), case)
    half_out, half_grads = run(partial(attend_to, start_N, start_N + 8, spec), half)
    assert half_out.dtype is torch.bfloat16
    for half_value, value in zip((half_out, *half_grads), (out, *grads), strict=True):
        torch.testing.assert_close(half_value.double(), value, rtol=0.05, atol=0.05)


def test_a_plan_serves_many_layers() -> None:
    q_NHD, k_MHD, v_MHD = tensors(0, 8, 8)
    lo_N, hi_N = torch.tensor([[0] * 8, [8] * 8])
    plan = plan_attention(lo_N, hi_N, 8, AttentionSpec())
    once = attend(q_NHD, k_MHD, v_MHD, plan)
    again = attend_to(lo_N, hi_N, AttentionSpec(), once, once, once)
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
