"""Back ends of other libraries equal the oracle where they can compute, and say why elsewhere."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

from taskloom.graph.errors import MissingExtraError, PlanError
from taskloom.ops.device.attention import AttentionSpec, Relative, attention
from taskloom.ops.device.attention.xformers import load_xformers

from .attention_cases import (
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


@settings(max_examples=60, deadline=None)
@given(
    case=any_ranges()
    | cross_ranges()
    | packed_ranges()
    | with_relative(any_ranges())
    | with_relative(packed_ranges())
)
def test_flex_attention_equals_the_oracle_on_a_cpu(case: Case) -> None:
    flex = case._replace(spec=replace(case.spec, backend="flex"))
    torch.testing.assert_close(compute(flex), oracle(case), rtol=1e-9, atol=1e-10)


def test_flex_attention_refuses_to_train_on_a_cpu() -> None:
    case = causal(AttentionSpec(backend="flex"), 16)
    with pytest.raises(PlanError, match="FlexAttention has no backward pass on CPU"):
        run(compute, case)
    with torch.no_grad():
        compute(case)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flex_attention_compiles_to_native_code() -> None:
    case = causal(AttentionSpec(backend="flex"), 200)
    single = case.having([x.float() for x in case.inputs])
    torch.compiler.reset()
    compiled = torch.compile(compute, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(single), oracle(case).float(), rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["varlen", "xformers"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
def test_what_needs_a_gpu_says_so(backend: str) -> None:
    with pytest.raises(PlanError, match=f'"{backend}" cannot compute this: it needs a GPU'):
        compute(causal(AttentionSpec(backend=backend), 16))


@pytest.mark.parametrize("backend", ["varlen", "xformers"])
def test_what_knows_no_bias_says_so(backend: str) -> None:
    q_NHD, k_MHD, v_MHD = tensors(0, 4, 4)
    code_N = torch.arange(4, dtype=torch.int32)
    relative = Relative(torch.zeros(2, 9), code_N, code_N * 0 + 4, code_N * 0)
    spec = AttentionSpec(backend=backend)
    with pytest.raises(PlanError, match=f'"{backend}" cannot compute this: .* bias'):
        attention(q_NHD, k_MHD, v_MHD, code_N * 0, code_N + 1, spec, relative)


def test_a_missing_xformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(MissingExtraError, match=r"taskloom\[gpu\]"):
        load_xformers()


def test_an_xformers_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "xformers"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "0.0.34"\n', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xformers", raising=False)
    with pytest.raises(MissingExtraError, match=r"needs xFormers 0\.0\.35 .* got 0\.0\.34"):
        load_xformers()
    del sys.modules["xformers"]  # or the one that was there before would not come back


@pytest.mark.device
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["varlen", "xformers"])
@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "whole"])
def test_documents_equal_the_oracle_on_a_gpu(backend: str, *, is_causal: bool) -> None:
    if backend == "xformers":
        skip_without_xformers()
    case = documents(AttentionSpec(backend=backend), is_causal=is_causal)
    check_on_gpu(case, torch.bfloat16, 5e-2)


@pytest.mark.device
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_flex_attention_trains_on_a_gpu() -> None:
    check_on_gpu(causal(AttentionSpec(backend="flex"), 300), torch.float32, 2e-2)


def skip_without_xformers() -> None:
    """Skip where it is not installed, or was built for another version of torch or of CUDA."""
    x_1NHD = torch.zeros(1, 16, 2, 64, dtype=torch.bfloat16, device="cuda")
    try:
        load_xformers().memory_efficient_attention(x_1NHD, x_1NHD, x_1NHD)
    except (MissingExtraError, NotImplementedError) as error:
        pytest.skip(str(error))


def causal(spec: AttentionSpec, length: int) -> Case:
    """Return the case of one causal document with a bias."""
    index_N = torch.arange(length, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    table_HR = torch.randn(2, 2 * length, generator=generator, dtype=torch.double)
    relative = None
    if spec.backend == "flex":
        relative = Relative(table_HR, index_N, index_N * 0 + length, index_N * 0)
    q_NHD, k_MHD, v_MHD = tensors(0, length, length)
    return Case(q_NHD, k_MHD, v_MHD, index_N * 0, index_N + 1, spec, relative)


def documents(spec: AttentionSpec, *, is_causal: bool) -> Case:
    """Return the case of two documents with a gap between them, of heads that kernels have."""
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(300, 2, 64, generator=generator, dtype=torch.double) for _ in range(3)]
    index_N = torch.arange(300, dtype=torch.int32)
    lo_N = torch.where(index_N < 100, 0, 128)
    stop_N = torch.where(index_N < 100, 100, 300)
    hi_N = index_N + 1 if is_causal else stop_N
    is_gap_N = (index_N >= 100) & (index_N < 128)
    hi_N = hi_N.where(~is_gap_N, 0)
    return Case(heads[0], heads[1], heads[2], lo_N.int(), hi_N.int(), spec)


def check_on_gpu(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    """Compare output and gradients with those of the oracle over the same rounded inputs."""
    rounded = case.having([x.to(dtype) for x in case.inputs])
    expected, expected_grads = run(oracle, case.having([x.double() for x in rounded.inputs]))
    moved = [x.cuda() for x in rounded[:5]]
    relative = rounded.relative and Relative(*(x.cuda() for x in rounded.relative))
    on_gpu = Case(moved[0], moved[1], moved[2], moved[3], moved[4], case.spec, relative)
    out, grads = run(compute, on_gpu)
    for value, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(value.double().cpu(), wanted, rtol=tolerance, atol=tolerance)
