"""Weights in eight bits give nearly what they gave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import PAD
from taskloom.ops.device.decode.int8 import Int8Linear, shrink
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.rotary_stack import RotaryStack
from taskloom.ops.device.decode.step import Sources, open_cache, take_step
from taskloom.ops.device.relative.stack import RelativeDecoder

from ..relative.golden import Case


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_differs_by_a_few_per_cent_at_most(*, has_bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 96, bias=has_bias)
    x = torch.randn(7, 64)
    expected, got = layer(x).detach(), Int8Linear(layer.weight, layer.bias)(x)
    assert 0 < float((got - expected).norm() / expected.norm()) < 0.04


def test_all_linear_layers_of_a_decoder_shrink_and_its_states_stay_near(program: Any) -> None:
    program.float()
    stack = RotaryStack(program.decoder, program.table)
    sources = Sources(torch.randn(8, 16), torch.tensor([[0, 3], [3, 8]]).T, 8)

    def state() -> torch.Tensor:
        cache = open_cache(stack, sources, num_rows=1, max_length=4)
        with torch.no_grad():
            return take_step(stack, torch.tensor([5, 6]), torch.tensor([0]), cache, 4)

    expected = state()
    shrink(program.decoder)
    assert not [each for each in program.decoder.modules() if isinstance(each, nn.Linear)]
    assert sum(isinstance(each, Int8Linear) for each in program.decoder.modules()) == 14
    assert 0 < float((state() - expected).norm() / expected.norm()) < 0.06


def test_scores_of_the_relative_stack_stay_near_those_of_ofasys_in_eight_bits() -> None:
    case = Case("text2text_tiny")
    model: Any = case.build()
    source, memory, starts = case.read_source(model)
    decoder: RelativeDecoder = model["decoder"]
    stack = RelativeStack(decoder, model["target_tokens"], model["vocabulary"])
    num_linear = sum(isinstance(each, nn.Linear) for each in decoder.modules())
    shrink(decoder)
    assert sum(isinstance(each, Int8Linear) for each in decoder.modules()) == num_linear
    stack = replace(stack, head=Int8Linear(stack.weight_VC, None))

    keys = torch.stack((starts[:-1], starts[1:]))
    sources = Sources(memory, keys, int(keys.diff(dim=0).max()), source["positions"])
    ids_LB = torch.from_numpy(case.input("TEXT", "tgt").astype(np.int64)).T
    cache = open_cache(stack, sources, num_rows=1, max_length=len(ids_LB))
    found: list[torch.Tensor] = []
    with torch.no_grad():
        for at, ids_B in enumerate(ids_LB):
            states = take_step(stack, ids_B, torch.tensor([at]), cache, len(ids_LB))
            found.append(stack.score(states))
    is_there = torch.from_numpy(case.arrays["target"] != PAD)
    expected = torch.from_numpy(case.arrays["logits"])[is_there]
    scores = torch.stack(found, 1)[is_there]
    scores = scores[..., :: -(-scores.shape[-1] // expected.shape[-1])]
    assert 0 < float((scores - expected).norm() / expected.norm()) < 0.06


def test_other_precisions_and_devices_are_refused() -> None:
    with pytest.raises(PlanError, match=r"single precision on a CPU, not of torch\.float64 on cpu"):
        shrink(nn.Sequential(nn.Linear(4, 4)).double())
    with pytest.raises(PlanError, match=r"not of torch\.float32 on meta"):
        shrink(nn.Sequential(nn.Linear(4, 4, device="meta")))
