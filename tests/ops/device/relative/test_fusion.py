"""A compiled layer is a few kernels between its matrix products; NormFormer's scales add none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.utils import run_and_get_code

from taskloom.ops.device.attention import AttentionPlan, AttentionSpec, plan_attention
from taskloom.ops.device.relative.layer import (
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

NUM_TOKENS, WIDTH = 64, 64
KERNEL = re.compile(r"^(?:cpp|triton)_\w+ = async_compile", re.MULTILINE)
PLAIN = {"scale_attn": False, "scale_fc": False, "scale_heads": False}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Forget compiled code before and after, and look none up."""
    torch.compiler.reset()
    with config.patch(force_disable_caches=True):
        yield
    torch.compiler.reset()


def make_shape(**scales: Any) -> RelativeShape:
    return RelativeShape(
        width=WIDTH,
        num_heads=4,
        ffn_width=2 * WIDTH,
        num_layers=2,
        absolute="none",
        has_tables=False,
        **scales,
    )


def make_plan() -> AttentionPlan:
    """Return causal attention in one document, by torch's own op: no kernel of ours is counted."""
    place = torch.arange(NUM_TOKENS, dtype=torch.int32)
    spec = AttentionSpec(backend="sdpa", tile=32, window=0, scale=0.25)
    return plan_attention(torch.zeros_like(place), place + 1, NUM_TOKENS, spec)


def count_kernels(layer: nn.Module, *inputs: object) -> list[int]:
    """Return the kernels of the forward pass and of the backward pass."""
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    x_NC = torch.randn(NUM_TOKENS, WIDTH, requires_grad=True)
    _, sources = run_and_get_code(lambda: compiled(x_NC, *inputs).sum().backward())
    return [len(KERNEL.findall(source)) for source in sources]


@pytest.mark.parametrize("scales", [{}, PLAIN, {"scale_resids": True}])
def test_an_encoder_layer_is_five_kernels(scales: dict[str, bool]) -> None:
    """Norm; scales of heads; norms and sum after attention; GELU and norm; sum."""
    layer = RelativeEncoderLayer(make_shape(**scales))
    forward, backward = count_kernels(layer, make_plan(), None, None)
    assert 1 <= forward <= 5
    assert 1 <= backward <= 7


@pytest.mark.parametrize("scales", [{}, PLAIN])
def test_a_decoder_layer_is_six_kernels(scales: dict[str, bool]) -> None:
    """Those of an encoder layer, where each norm after attention is one with that of what follows."""
    layer = RelativeDecoderLayer(make_shape(**scales))
    memory_NC, plan = torch.randn(NUM_TOKENS, WIDTH), make_plan()
    forward, backward = count_kernels(layer, plan, None, None, memory_NC, plan, None)
    assert 1 <= forward <= 6
    assert 1 <= backward <= 11
