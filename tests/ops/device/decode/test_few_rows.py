"""Layers laid out for few rows give what they gave, and take memory only where rows are written together."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from taskloom.ops.device.decode.few_rows import FEWEST, MOST, FewRowsLinear, lay_out
from taskloom.ops.device.decode.rotary_stack import RotaryStack
from taskloom.ops.device.decode.step import Sources, open_cache, take_step


@settings(deadline=None, max_examples=60)
@given(
    num_rows=st.integers(1, MOST + 2),
    num_inputs=st.integers(1, 70),
    num_outputs=st.integers(1, 70),
    has_bias=st.booleans(),
    has_gradient=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.bfloat16)),
)
def test_a_layer_gives_what_it_gave_for_any_number_of_rows(
    *,
    num_rows: int,
    num_inputs: int,
    num_outputs: int,
    has_bias: bool,
    has_gradient: bool,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(num_inputs, num_outputs, bias=has_bias, dtype=dtype)
    x_NC = torch.randn(num_rows, num_inputs, dtype=dtype, requires_grad=has_gradient)
    with torch.set_grad_enabled(has_gradient):
        expected = layer(x_NC)
        laid = FewRowsLinear.of(layer)
        # Once more: the second time, blocks are there.
        for got in (laid(x_NC), laid(x_NC), laid(x_NC[None])[0]):
            torch.testing.assert_close(got, expected)
    if has_gradient:
        (slopes_NC,) = torch.autograd.grad(laid(x_NC).sum(), x_NC)
        torch.testing.assert_close(slopes_NC, layer.weight.sum(0).expand_as(x_NC))


@pytest.mark.parametrize("num_outputs", [8, 64], ids=["fewer outputs", "more outputs"])
def test_blocks_are_made_for_some_rows_and_for_no_others(num_outputs: int) -> None:
    layer = FewRowsLinear.of(nn.Linear(16, num_outputs))
    with torch.no_grad():
        for num_rows in (1, FEWEST - 1, MOST + 1):
            layer(torch.randn(num_rows, 16))
        assert not layer.has_blocks
        layer(torch.randn(FEWEST, 16))
    assert layer.has_blocks == torch.backends.mkldnn.is_available()


@torch.no_grad()
def test_a_copy_gives_the_same_and_makes_its_own_blocks() -> None:
    layer, x_NC = FewRowsLinear.of(nn.Linear(16, 64)), torch.randn(FEWEST, 16)
    expected = layer(x_NC)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not other.has_blocks
        assert torch.equal(other(x_NC), expected)


def test_a_decoder_has_the_parameters_it_had_and_they_lie_in_one_piece(program: Any) -> None:
    decoder = program.float().decoder.eval()
    parameters = dict(decoder.named_parameters())
    values = {name: each.detach().clone() for name, each in parameters.items()}
    lay_out(decoder)
    laid = dict(decoder.named_parameters())
    assert {name: id(each) for name, each in laid.items()} == {
        name: id(each) for name, each in parameters.items()
    }
    for name, each in laid.items():
        assert torch.equal(each, values[name]), name
    layers = [each for each in decoder.modules() if isinstance(each, FewRowsLinear)]
    assert len(layers) == 14
    assert not any(type(each) is nn.Linear for each in decoder.modules())
    assert len({each.weight.untyped_storage().data_ptr() for each in layers}) == 1
    assert not any(each.training for each in layers), "it writes, and learns nothing"


def test_a_table_laid_out_scores_and_embeds_as_before(program: Any) -> None:
    table, x = program.float().table, torch.randn(5, 16)
    before = table.score(x).detach(), table.embed(torch.tensor([5, 7])).detach()
    head = FewRowsLinear(table.weight_VC)
    assert not table.weight_VC.is_contiguous()
    with torch.no_grad():
        after = head(x), table.embed(torch.tensor([5, 7]))
    torch.testing.assert_close(after, before)


def test_steps_that_are_compiled_leave_blocks_to_the_compiler(program: Any) -> None:
    program.float()
    lay_out(program.decoder)
    stack = RotaryStack(program.decoder, program.table, FewRowsLinear(program.table.weight_VC))
    memory = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    keys_2B = torch.tensor([[0, 2], [2, 3], [3, 8]]).T
    take = torch.compile(take_step, fullgraph=True, dynamic=False, backend="aot_eager")

    def state(step: Any) -> torch.Tensor:
        with torch.no_grad():
            cache = open_cache(stack, Sources(memory, keys_2B, 8), num_rows=1, max_length=4)
            return step(stack, torch.tensor([5, 6, 7]), torch.tensor([0]), cache, 4)

    compiled = state(take)
    own = program.decoder.layers[0].attention.query_key_value
    assert not own.has_blocks
    torch.testing.assert_close(compiled, state(take_step))
    assert own.has_blocks == torch.backends.mkldnn.is_available()
