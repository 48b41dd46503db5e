"""A compiled layer is a few kernels between its matrix products; of NormFormer's scales, norms add none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.utils import run_and_get_code

from taskloom.ops.device.attention import AttentionPlan, AttentionSpec, Relative, plan_attention
from taskloom.ops.device.relative.layer import (
    Folded,
    RelativeDecoderLayer,
    RelativeEncoderLayer,
    RelativeShape,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:dynamo_pgo:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]

NUM_TOKENS, WIDTH, NUM_HEADS = 64, 64, 4
KERNEL = re.compile(r"^(?:cpp|triton)_\w+ = async_compile", re.MULTILINE)
PLAIN = {"scale_attn": False, "scale_fc": False, "scale_heads": False}
NORMS = {"scale_heads": False}
Counts: TypeAlias = tuple[int, int]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Forget compiled code before and after, and look none up."""
    torch.compiler.reset()
    with config.patch(force_disable_caches=True):
        yield
    torch.compiler.reset()


def make_shape(**scales: Any) -> RelativeShape:
    return RelativeShape(
        width=WIDTH, num_heads=NUM_HEADS, ffn_width=2 * WIDTH, num_layers=2, **scales
    )


def make_plan() -> AttentionPlan:
    """Return causal attention in one document, one op to the compiler: none of its kernels is counted."""
    place = torch.arange(NUM_TOKENS, dtype=torch.int32)
    spec = AttentionSpec(backend="blockwise", tile=32, scale=0.25)
    return plan_attention(torch.zeros_like(place), place + 1, NUM_TOKENS, spec)


def make_folded() -> Folded:
    shape = NUM_TOKENS, NUM_HEADS, WIDTH // NUM_HEADS
    return Folded(*(torch.randn(shape, requires_grad=True) for _ in range(2)))


def make_relative() -> Relative:
    place = torch.arange(NUM_TOKENS, dtype=torch.int32)
    table_HR = torch.randn(NUM_HEADS, 2 * NUM_TOKENS, requires_grad=True)
    return Relative(table_HR, place, torch.full_like(place, NUM_TOKENS), place * 0)


def count_encoder(**scales: bool) -> Counts:
    layer = RelativeEncoderLayer(make_shape(**scales))
    return count_kernels(layer, make_plan(), make_folded(), make_relative())


def count_decoder(**scales: bool) -> Counts:
    layer, memory_NC = RelativeDecoderLayer(make_shape(**scales)), torch.randn(NUM_TOKENS, WIDTH)
    inputs = make_plan(), make_folded(), make_relative(), memory_NC, make_plan(), make_folded()
    return count_kernels(layer, *inputs)


def count_kernels(layer: nn.Module, *inputs: object) -> Counts:
    """Return the kernels of the forward pass and of the backward pass."""
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    x_NC = torch.randn(NUM_TOKENS, WIDTH, requires_grad=True)
    _, sources = run_and_get_code(lambda: compiled(x_NC, *inputs).sum().backward())
    forward, backward = (len(KERNEL.findall(source)) for source in sources)
    return forward, backward


@pytest.mark.parametrize(
    ("count", "most"),
    [(count_encoder, (6, 7)), (count_decoder, (9, 11))],
    ids=["encoder", "decoder"],
)
def test_norms_add_no_kernel_and_factors_of_heads_one(
    count: Callable[..., Counts], most: Counts
) -> None:
    """Heads are scaled between the op of attention and a product, where no other kernel is.

    The others of an encoder layer: a norm; positions behind queries and keys; norms and sum after attention;
    GELU and norm; a sum.
    """
    (plain, plain_back), (norms, norms_back) = count(**PLAIN), count(**NORMS)
    scaled, scaled_back = count()
    assert 1 <= norms == plain
    assert scaled == plain + 1 <= most[0]
    assert 1 <= max(norms_back, scaled_back) <= plain_back <= most[1]


def test_factors_of_residuals_add_no_kernel_to_the_forward_pass() -> None:
    (plain, plain_back), (scaled, scaled_back) = count_encoder(), count_encoder(scale_resids=True)
    assert scaled == plain
    assert scaled_back <= plain_back + 1  # the sum of their gradients over tokens
