"""A pack is its documents: packing changes neither states, nor losses, nor gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from taskloom.ops.device.config import ModelConfig


def gradients(program: Any, pack: dict[str, Tensor], divisor: Tensor) -> list[Tensor]:
    loss, *_ = program(pack, divisor)
    return list(torch.autograd.grad(loss, list(program.parameters()), materialize_grads=True))


def test_a_document_alone_has_the_states_it_has_in_a_pack(
    program: Any, documents: list[Any], pack: Callable[..., Any]
) -> None:
    together, starts = pack(documents)
    assert len(starts) == len(documents)
    memory = program.read(together)
    states = program.write(together, memory)
    for document, (source, target) in zip(documents, starts, strict=True):
        alone, _ = pack([document])
        own_memory = program.read(alone)
        own_states = program.write(alone, own_memory)
        for stream, own, start, ids in (
            (memory, own_memory, source, document.source),
            (states, own_states, target, document.target),
        ):
            expected = own[: len(ids)]
            torch.testing.assert_close(
                stream[start : start + len(ids)], expected, rtol=0, atol=1e-9
            )


def test_the_gradient_of_a_pack_is_the_sum_over_its_documents(
    program: Any, documents: list[Any], pack: Callable[..., Any]
) -> None:
    together, _ = pack(documents)
    divisor = together["weights"].sum()
    whole = gradients(program, together, divisor)
    parts = [gradients(program, pack([document])[0], divisor) for document in documents]
    for grad, *own in zip(whole, *parts, strict=True):
        torch.testing.assert_close(grad, sum(own), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["math", "sdpa", "blockwise"])
@pytest.mark.parametrize("cross_window", [0, 64])
def test_backends_agree_on_the_loss_and_its_gradients(
    backend: str, cross_window: int, program: Any, packs: Iterator[dict[str, Tensor]]
) -> None:
    pack = next(packs)
    divisor = pack["weights"].sum()
    expected = gradients(program, pack, divisor)
    program.encode = replace(program.encode, backend=backend)
    program.decode = replace(program.decode, backend=backend, cross_window=cross_window)
    for grad, expected_grad in zip(gradients(program, pack, divisor), expected, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-10)


def test_no_target_token_knows_those_after_it(
    program: Any, documents: list[Any], pack: Callable[..., Any]
) -> None:
    together, starts = pack(documents)
    memory = program.read(together)
    before = program.write(together, memory)
    at = starts[1][1] + len(documents[1].target) // 2
    together["target_ids"][at] += 1
    changed_N = (program.write(together, memory) != before).any(1)
    stop = starts[1][1] + len(documents[1].target)
    assert changed_N.nonzero()[:, 0].tolist() == list(range(at, stop))


def test_the_order_of_source_tokens_matters(
    program: Any, documents: list[Any], pack: Callable[..., Any]
) -> None:
    document = next(d for d in documents if d.image is None and len(d.source) > 2)
    expected = program.read(pack([document])[0])[: len(document.source)]
    document.source = document.source[::-1].copy()
    turned = program.read(pack([document])[0])[: len(document.source)]
    assert not torch.allclose(turned.flip(0), expected, atol=1e-3)


def test_equal_seeds_give_equal_parameters_and_names_are_plain(
    build_program: Callable[[], Any],
) -> None:
    torch.manual_seed(3)
    first = build_program().state_dict()
    torch.manual_seed(3)
    second = build_program().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [name for name in first if name.startswith("encoder.layers.0.")] == [
        "encoder.layers.0.attention_norm.weight",
        "encoder.layers.0.attention.query_key_value.weight",
        "encoder.layers.0.attention.out.weight",
        "encoder.layers.0.ffn_norm.weight",
        "encoder.layers.0.ffn.up.weight",
        "encoder.layers.0.ffn.down.weight",
    ]


def test_dropout_acts_in_training_alone(
    build_program: Callable[..., Any], packs: Iterator[dict[str, Tensor]]
) -> None:
    config = ModelConfig(
        width=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        ffn_width=16,
        dropout=0.5,
    )
    program, pack = build_program(config), next(packs)
    assert program(pack)[0] != program(pack)[0]
    program.eval()
    assert program(pack)[0] == program(pack)[0]


def test_training_learns_a_pack_by_heart(
    build_program: Callable[[], Any], packs: Iterator[dict[str, Tensor]]
) -> None:
    torch.manual_seed(0)
    program, pack = build_program(), next(packs)
    optimizer = torch.optim.AdamW(program.parameters(), lr=1e-2)
    first = program(pack)[0].item()
    for _ in range(60):
        optimizer.zero_grad()
        program(pack)[0].backward()
        optimizer.step()
    assert first > 2
    assert program(pack)[0].item() < 0.1
