"""Compiled programs equal eager ones, and one program serves every pack."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from taskloom.ops.device.config import ModelConfig

# torch's compiler warns about its own code: old decorators, `.grad` of tensors that have none.
pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]


def loss_and_gradients(
    program: Any, parameters: list[Tensor], pack: dict[str, Tensor]
) -> list[Tensor]:
    loss, *_ = program(pack)
    return [loss, *torch.autograd.grad(loss, parameters)]


def check(program: Any, compiled: Any, packs: Iterator[dict[str, Tensor]], num_packs: int) -> None:
    """Compare compiled with eager on the first pack, then run many more without compiling anew."""
    parameters = list(program.parameters())
    pack = next(packs)
    expected = loss_and_gradients(program, parameters, pack)
    for value, wanted in zip(loss_and_gradients(compiled, parameters, pack), expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-5)
    losses: set[float] = set()
    with torch.compiler.set_stance("fail_on_recompile"):
        for other in itertools.islice(packs, num_packs):
            losses.add(loss_and_gradients(compiled, parameters, other)[0].item())
    assert len(losses) == num_packs
    assert all(loss == loss for loss in losses)  # noqa: PLR0124 - not NaN


def test_a_whole_step_is_one_graph_for_fifty_packs(
    program: Any, packs: Iterator[dict[str, Tensor]]
) -> None:
    compiled = torch.compile(program, backend="aot_eager", fullgraph=True, dynamic=False)
    check(program, compiled, packs, 50)


@pytest.mark.slow
def test_a_step_compiled_to_native_code_equals_an_eager_one(
    build_program: Any, packs: Iterator[dict[str, Tensor]]
) -> None:
    config = ModelConfig(
        width=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, ffn_width=32
    )
    program = build_program(config)
    compiled = torch.compile(program, fullgraph=True, dynamic=False)
    check(program, compiled, packs, 50)


@pytest.mark.slow
def test_layers_compile_one_by_one(build_program: Any, packs: Iterator[dict[str, Tensor]]) -> None:
    torch.manual_seed(0)
    eager = build_program()
    regional = build_program()
    regional.load_state_dict(eager.state_dict())
    for layer in [*regional.encoder.layers, *regional.decoder.layers]:
        layer.compile(fullgraph=True, dynamic=False)
    pack = next(packs)
    expected = loss_and_gradients(eager, list(eager.parameters()), pack)
    values = loss_and_gradients(regional, list(regional.parameters()), pack)
    for value, wanted in zip(values, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-5)
    with torch.compiler.set_stance("fail_on_recompile"):
        for other in itertools.islice(packs, 50):
            loss_and_gradients(regional, list(regional.parameters()), other)
