"""Paths are dropped by document, as often as was asked, and in training alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taskloom.ops.device.attention import AttentionSpec
from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.drop_path import DropPath, thin
from taskloom.ops.device.relative.layer import RelativeShape
from taskloom.ops.device.relative.places import to_items
from taskloom.ops.device.relative.stack import RelativeDecoder, RelativeEncoder, Stream

CONFIG = ModelConfig(
    width=16, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, ffn_width=32
)
LINE = {"kind": "line", "table": "text", "num_places": 16, "bucket": 4, "longest": 16}


def draw(rate: float, num_layers: int, lo_N: Tensor, seed: int = 0) -> Tensor:
    """Return the factors of all layers, shape ``(L, S, N)``."""
    torch.manual_seed(seed)
    factors = DropPath(rate, num_layers=num_layers, num_parts=2)(lo_N)
    return torch.stack([each for each in factors if each is not None])[..., 0]


@given(st.floats(0.01, 0.9), st.integers(1, 6), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_what_is_added_is_as_much_on_average(rate: float, num_layers: int, seed: int) -> None:
    num_documents = 4000
    factors_LSN = draw(rate, num_layers, torch.arange(num_documents), seed)
    for layer, factors_SN in enumerate(factors_LSN):
        dropped = rate * layer / (num_layers - 1) if num_layers > 1 else rate
        # The mean of that many draws has this deviation; six of them are never seen.
        deviation = (dropped / (1 - dropped) / factors_SN.numel()) ** 0.5
        assert abs(factors_SN.mean().item() - 1) <= 6 * deviation + 1e-5
        share = (factors_SN == 0).double().mean().item()
        assert abs(share - dropped) <= 6 * (dropped * (1 - dropped) / factors_SN.numel()) ** 0.5
        kept = factors_SN[factors_SN > 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - dropped)))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.integers(0, 1000))
def test_a_document_is_dropped_as_a_whole(lengths: list[int], seed: int) -> None:
    starts = [0, *itertools.accumulate(lengths)][:-1]
    lo_N = torch.repeat_interleave(torch.tensor(starts), torch.tensor(lengths))
    factors_LSN = draw(0.5, 8, lo_N, seed)
    for start, length in zip(starts, lengths, strict=True):
        own = factors_LSN[..., start : start + length]
        assert (own == own[..., :1]).all()
    assert (factors_LSN.diff() != 0).any()  # and not all of them together


@pytest.mark.parametrize(("rate", "is_training"), [(0.0, True), (0.5, False)])
def test_where_nothing_is_dropped_no_number_is_drawn(
    rate: float,
    is_training: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    before = torch.get_rng_state()
    paths = DropPath(rate, num_layers=3, num_parts=2).train(is_training)
    assert paths(torch.zeros(5, dtype=torch.int32)) == (None, None, None)
    assert torch.equal(torch.get_rng_state(), before)


def test_precision_is_kept() -> None:
    added_NC = torch.ones(4, 2, dtype=torch.bfloat16)
    factors_SN1 = torch.full((2, 4, 1), 1 / 0.9)
    assert thin(added_NC, factors_SN1, 1).dtype is torch.bfloat16


def test_rates_name_no_parameters_and_evaluation_is_without(
    build_program: Callable[..., Any], packs: Iterator[dict[str, Tensor]]
) -> None:
    pack = next(packs)
    plain, dropping = build_program(CONFIG), build_program(replace(CONFIG, drop_path=0.5))
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    dropping.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    assert dropping(pack)[0] != plain(pack)[0]
    assert dropping.eval()(pack)[0] == plain.eval()(pack)[0]


def test_a_document_that_every_part_leaves_alone_is_as_it_came(
    build_program: Callable[..., Any], documents: list[Any], pack: Callable[..., Any]
) -> None:
    program = build_program(replace(CONFIG, num_encoder_layers=1, drop_path=0.6))
    together, starts = pack(documents)
    hidden_NC = torch.randn(len(together["source_ids"]), 16)
    lo_N = together["source_keys"][0]
    is_untouched: set[bool] = set()
    for seed in range(20):
        torch.manual_seed(seed)
        (factors_SN1,) = program.encoder.paths(lo_N)
        torch.manual_seed(seed)
        states = program.encode(
            program.encoder,
            hidden=hidden_NC,
            positions=together["source_positions"],
            keys=together["source_keys"],
        )
        for (start, _), document in zip(starts, documents, strict=True):
            own = slice(start, start + len(document.source))
            if not len(document.source):
                continue
            is_out = not factors_SN1[:, start].any()
            came = program.encoder.norm(hidden_NC[own])
            assert torch.equal(states[own], came) == is_out
            is_untouched.add(is_out)
    assert is_untouched == {True, False}


@pytest.mark.parametrize("is_pre_norm", [True, False])
def test_stacks_with_relative_positions_drop_by_document(
    is_pre_norm: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    shape = RelativeShape(
        width=16, num_heads=2, ffn_width=32, num_layers=1, drop_path=0.6, is_pre_norm=is_pre_norm
    )
    forms = (("text", to_items(LINE)),)
    encoder, decoder = RelativeEncoder(shape, forms), RelativeDecoder(shape, forms)
    lengths = torch.tensor([5, 7, 4])
    lo_N = torch.repeat_interleave(torch.tensor([0, 5, 12]), lengths).int()
    hi_N = torch.repeat_interleave(torch.tensor([5, 12, 16]), lengths).int()
    hidden_NC = torch.randn(16, 16)
    place_N = torch.cat([torch.arange(int(length)) for length in lengths]).int()
    keys_2N = torch.stack((lo_N, hi_N))
    stream = Stream(hidden_NC, torch.randn(16, 16), lo_N, place_N, keys_2N)
    spec = AttentionSpec(tile=4, scale=shape.score_scale)

    def encode() -> Tensor:
        return encoder(stream, spec)

    def decode() -> Tensor:
        return decoder(stream, hidden_NC, stream.positions_NC, keys_2N, (spec, spec))

    for stack, call in ((encoder, encode), (decoder, decode)):
        is_untouched: set[bool] = set()
        for seed in range(40):
            torch.manual_seed(seed)
            (factors_SN1,) = stack.paths(lo_N)
            torch.manual_seed(seed)
            states_NC = call()
            came_NC = _pass(stack, hidden_NC)
            for start, stop in ((0, 5), (5, 12), (12, 16)):
                is_out = not factors_SN1[:, start].any()
                assert torch.equal(states_NC[start:stop], came_NC[start:stop]) == is_out
                is_untouched.add(is_out)
        assert is_untouched == {True, False}


def _pass(stack: RelativeEncoder | RelativeDecoder, x_NC: Tensor) -> Tensor:
    """Return the state of a document whose layer adds nothing."""
    (layer,) = stack.layers
    if not stack.shape.is_pre_norm:
        for part in ("attention_sum", "cross_sum", "ffn_sum"):
            if hasattr(layer, part):
                x_NC = getattr(layer, part).norm(x_NC)
    return stack.norm(x_NC)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_layers_that_are_dropped_compile_once(
    build_program: Callable[..., Any], packs: Iterator[dict[str, Tensor]]
) -> None:
    torch.compiler.reset()
    config = replace(CONFIG, drop_path=0.4)
    torch.manual_seed(0)
    eager, compiled = build_program(config), build_program(config)
    compiled.load_state_dict(eager.state_dict())
    for layer in [*compiled.encoder.layers, *compiled.decoder.layers]:
        layer.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    stance = "default"
    for pack in itertools.islice(packs, 3):
        with torch.compiler.set_stance(stance):
            torch.manual_seed(1)
            found = compiled(pack)[0]
        torch.manual_seed(1)
        torch.testing.assert_close(found, eager(pack)[0], rtol=0, atol=1e-5)
        stance = "fail_on_recompile"
    torch.compiler.reset()
