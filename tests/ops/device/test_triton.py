"""Our Triton kernels equal the query by query computation: on a GPU, or else interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from taskloom.graph.errors import PlanError
from taskloom.ops.device.attention import AttentionSpec, Relative, attention

from .attention_cases import (
    KINDS,
    Case,
    any_ranges,
    compute,
    cross_ranges,
    oracle,
    packed_ranges,
    ranges_of,
    run,
    tensors,
    with_relative,
)

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(case: Case, dtype: torch.dtype, tolerance: float, *, tile: int = 16) -> None:
    """Compare output and gradients with those of the oracle over the same rounded inputs."""
    rounded = case.having([x.to(dtype) for x in case.inputs])
    exact = case.having([x.double() for x in rounded.inputs])
    expected, expected_grads = run(oracle, exact)
    spec = replace(case.spec, backend="triton", tile=tile, window=0, is_diagonal=False)
    out, grads = run(compute, on_device(rounded._replace(spec=spec)))
    assert out.dtype is dtype
    for value, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        value_ = value.double().cpu()
        torch.testing.assert_close(value_, wanted, rtol=tolerance, atol=tolerance)


def on_device(case: Case) -> Case:
    moved = [x.to(DEVICE) for x in case[:5]]
    relative = case.relative and Relative(*(x.to(DEVICE) for x in case.relative))
    return Case(moved[0], moved[1], moved[2], moved[3], moved[4], case.spec, relative)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Sums that depend on no order."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@settings(max_examples=5, deadline=None)
@given(case=cross_ranges())
def test_targets_that_look_at_their_sources_equal_the_oracle(case: Case) -> None:
    check(case, torch.float32, 2e-5)


@settings(max_examples=5, deadline=None)
@given(case=any_ranges() | with_relative(any_ranges()))
def test_any_ranges_equal_the_oracle(case: Case) -> None:
    check(case, torch.float32, 2e-5)


@settings(max_examples=5, deadline=None)
@given(case=with_relative(packed_ranges()))
def test_packed_documents_with_a_bias_equal_the_oracle(case: Case) -> None:
    check(case, torch.float32, 2e-5)


@settings(max_examples=5, deadline=None)
@given(case=with_relative(packed_ranges()) | cross_ranges())
def test_half_precision_stays_close_to_the_oracle(case: Case) -> None:
    check(case, torch.float16, 2e-2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float32, 2e-5, id="single"),
        pytest.param(torch.float16, 2e-2, id="half"),
    ],
)
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_ranges_equals_the_oracle(
    kind: str, dtype: torch.dtype, tolerance: float, *, has_bias: bool
) -> None:
    case = ranges_of(kind, 21, 21 if has_bias else 18)
    if has_bias:
        case = case._replace(relative=text_and_pictures(21, 16).relative)
    check(case, dtype, tolerance)


def text_and_pictures(length: int, tile: int) -> Case:
    """Return a causal document of text, one of pictures in two slots, and one of both."""
    index_N = torch.arange(length, dtype=torch.int32)
    third = length // 3
    lo_N = index_N // third * third
    is_patch_N = (index_N >= third) & (index_N < 2 * third + third // 2)
    patch_N = index_N % 25
    code_N = torch.where(is_patch_N, patch_N // 5 * 9 + patch_N % 5, index_N)
    base_N = torch.where(is_patch_N, 2 * length + 44, length)
    slot_N = torch.where(is_patch_N, 1 + index_N // 25 % 2, 0)
    generator = torch.Generator().manual_seed(0)
    table_HR = torch.randn(2, 2 * length + 89, generator=generator, dtype=torch.double)
    relative = Relative(table_HR, code_N, base_N.int(), slot_N.int())
    spec = AttentionSpec(tile=tile)
    q_NHD, k_MHD, v_MHD = tensors(0, length, length)
    return Case(q_NHD, k_MHD, v_MHD, lo_N, index_N + 1, spec, relative)


@pytest.mark.parametrize(("length", "tile"), [(75, 16), (192, 64)])
def test_diagonals_and_single_scores_sum_to_the_gradient_of_the_table(
    length: int, tile: int
) -> None:
    check(text_and_pictures(length, tile), torch.float32, 2e-5, tile=tile)


@pytest.mark.usefixtures("deterministic")
def test_sums_in_steps_are_as_exact_however_small_the_gradients() -> None:
    case = text_and_pictures(75, 16)
    check(case, torch.float32, 2e-5)
    *_, expected = run(lambda x: 1e-12 * oracle(x), case)[1]
    small = case.having([x.float() for x in case.inputs])
    small = on_device(small._replace(spec=AttentionSpec(backend="triton", tile=16)))
    *_, grad = run(lambda x: 1e-12 * compute(x), small)[1]
    assert expected.abs().max() > 1e-13
    torch.testing.assert_close(grad.double().cpu(), expected, rtol=1e-4, atol=1e-17)


@pytest.mark.device
@pytest.mark.usefixtures("deterministic")
def test_the_gradient_of_the_table_is_the_same_every_time() -> None:
    case = text_and_pictures(999, 64)
    single = case.having([x.float() for x in case.inputs])
    single = on_device(single._replace(spec=AttentionSpec(backend="triton")))
    once, again = (run(compute, single)[1] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))


@pytest.mark.device
def test_bfloat16_stays_close_to_the_oracle() -> None:
    check(text_and_pictures(999, 64), torch.bfloat16, 5e-2, tile=64)


@pytest.mark.skipif(DEVICE == "cuda", reason="of the interpreter")
@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        pytest.param(torch.float64, "half and in single precision alone", id="double"),
        pytest.param(torch.bfloat16, "multiplies bfloat16 wrongly", id="bfloat16"),
    ],
)
def test_what_the_kernels_compute_wrongly_is_refused(dtype: torch.dtype, reason: str) -> None:
    q_NHD, k_MHD, v_MHD = (x.to(dtype) for x in tensors(0, 4, 4))
    lo_N = torch.zeros(4, dtype=torch.int32)
    with pytest.raises(PlanError, match=reason):
        attention(q_NHD, k_MHD, v_MHD, lo_N, lo_N + 4, AttentionSpec(backend="triton"))


@pytest.mark.skipif(DEVICE == "cuda", reason="of machines without a GPU")
def test_without_a_gpu_and_the_interpreter_the_reason_is_told() -> None:
    script = """
import torch
from taskloom.ops.device.attention import AttentionSpec, attention
x, lo = torch.zeros(4, 2, 8), torch.zeros(4, dtype=torch.int32)
attention(x, x, x, lo, lo + 4, AttentionSpec(backend="triton"))
"""
    environ = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert "error[T0230]" in done.stderr
    assert "it needs a GPU, or TRITON_INTERPRET=1" in done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_kernels_are_one_op_to_the_compiler() -> None:
    case = text_and_pictures(75, 16)
    single = case.having([x.float() for x in case.inputs])
    single = on_device(single._replace(spec=AttentionSpec(backend="triton", tile=16)))
    compiled = torch.compile(compute, backend="aot_eager", fullgraph=True, dynamic=False)
    out, grads = run(compiled, single)
    wanted, wanted_grads = run(compute, single)
    torch.testing.assert_close((out, *grads), (wanted, *wanted_grads))
