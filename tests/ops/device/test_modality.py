"""Each token goes through the weights of its modality, wherever it stands and however many there are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from taskloom.ops.device.attention import AttentionSpec
from taskloom.ops.device.decode.rotary_stack import RotaryStack
from taskloom.ops.device.decode.step import Sources, open_cache, take_step
from taskloom.ops.device.decoder import Decoder
from taskloom.ops.device.embedding import TokenTable
from taskloom.ops.device.grouped_product import (
    differentiate_at_once,
    multiply_at_once,
    multiply_groups,
)
from taskloom.ops.device.layer import EncoderLayer, LayerShape
from taskloom.ops.device.modality import (
    Blocks,
    Route,
    RoutedFeedForward,
    TellModalities,
    feed,
    names_of,
    plan_route,
    renumber,
    shared_name,
    tell_ids,
)
from taskloom.ops.device.relative.layer import RelativeEncoderLayer, RelativeShape

NAMES = ("text", "bin", "image")
BLOCKS: Blocks = ((4, "text"), (10, "text"), (16, "bin"), (17, "text"))

numbers = st.lists(st.integers(0, 2), min_size=1, max_size=20).map(torch.tensor)


def make_ffn(kind: str) -> RoutedFeedForward:
    torch.manual_seed(0)
    layer: Any
    if kind == "rotary":
        layer = EncoderLayer(LayerShape(8, 2, 16, 0.0, 1, modalities=NAMES))
    else:
        shape = RelativeShape(width=8, num_heads=2, ffn_width=16, num_layers=1, modalities=NAMES)
        layer = RelativeEncoderLayer(shape)
        for part in (*layer.ffn.up.values(), *layer.ffn.down.values(), layer.ffn.norm):
            nn.init.normal_(part.bias)
    return layer.ffn


def by_token(ffn: RoutedFeedForward, x_NC: Tensor, numbers_N: Tensor) -> Tensor:
    """Return what each token's weights add to it, one token after another."""
    rows: list[Tensor] = []
    for x_C, number in zip(x_NC, numbers_N.tolist(), strict=True):
        up, down = ffn.up[NAMES[number]], ffn.down[NAMES[number]]
        rows.append(down(ffn.norm(nn.functional.gelu(up(x_C)))))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["rotary", "relative"])
@given(numbers_N=numbers)
@settings(deadline=None, max_examples=25)
def test_a_token_goes_through_the_weights_of_its_modality(kind: str, numbers_N: Tensor) -> None:
    ffn = make_ffn(kind)
    x_NC = torch.randn(len(numbers_N), 8, requires_grad=True)
    routes = [plan_route(numbers_N, NAMES, NAMES), Route(numbers_N)]
    inputs = [x_NC, *ffn.parameters()]
    expected = by_token(ffn, x_NC, numbers_N)
    weight_NC = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight_NC).sum(), inputs, materialize_grads=True)
    for route in routes:
        assert route is not None
        found = ffn(x_NC, route)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        grads = torch.autograd.grad((found * weight_NC).sum(), inputs, materialize_grads=True)
        for grad, other in zip(grads, wanted, strict=True):
            torch.testing.assert_close(grad, other, rtol=0, atol=1e-4)


@given(numbers_N=numbers)
@settings(deadline=None, max_examples=25)
def test_one_kernel_multiplies_groups_alike(numbers_N: Tensor) -> None:
    """A GPU has it in half precision; here the library computes the same in single."""
    torch.manual_seed(0)
    stops_E = (numbers_N.sort().values[:, None] <= torch.arange(3)).sum(0, dtype=torch.int32)
    x_NC = torch.randn(len(numbers_N), 8, requires_grad=True)
    weights = [torch.randn(16, 8, requires_grad=True) for _ in range(3)]
    grad_NO = torch.randn(len(numbers_N), 16)
    found = multiply_groups(x_NC, weights, stops_E)
    to_x, *to_weights = torch.autograd.grad((found * grad_NO).sum(), (x_NC, *weights))
    given = (x_NC.detach(), torch.stack(weights).detach(), stops_E)
    torch.testing.assert_close(multiply_at_once(*given), found, rtol=0, atol=1e-5)
    at_once = differentiate_at_once(grad_NO, *given)
    torch.testing.assert_close(at_once[0], to_x, rtol=0, atol=1e-5)
    torch.testing.assert_close(at_once[1], torch.stack(to_weights), rtol=0, atol=1e-5)


def test_weights_are_kept_once() -> None:
    """A copy for the backward pass would be as large as the weights of all modalities."""
    ffn, kept = make_ffn("rotary"), [0]
    numbers_N = torch.tensor([2, 0, 1, 2])
    weights = {parameter.data_ptr() for parameter in ffn.parameters()}

    def count(tensor: Tensor) -> Tensor:
        kept[0] += tensor.numel() * (tensor.data_ptr() not in weights)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        ffn(torch.randn(4, 8, requires_grad=True), plan_route(numbers_N, NAMES, NAMES))
    assert kept[0] < sum(parameter.numel() for parameter in ffn.parameters()) / 2


def test_half_precision_stays_half() -> None:
    ffn = make_ffn("rotary").bfloat16()
    numbers_N = torch.tensor([2, 0, 0, 1, 2, 0, 1, 1])
    route = plan_route(numbers_N, NAMES, NAMES)
    x_NC = torch.randn(8, 8, dtype=torch.bfloat16)
    found = ffn(x_NC, route)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, by_token(ffn, x_NC, numbers_N), rtol=0.05, atol=0.05)


def test_streams_that_lack_a_modality_count_otherwise() -> None:
    told_N = torch.tensor([0, 1, 1, 0])
    assert renumber(told_N, ("text", "image"), NAMES).tolist() == [0, 2, 2, 0]
    assert renumber(told_N, ("bin", "text"), NAMES).tolist() == [1, 0, 0, 1]


def test_ids_are_of_their_block_and_tensors_of_their_lane() -> None:
    op = TellModalities(blocks=BLOCKS, lanes=(("photo", "image"), ("scan", "image")))
    assert op.names == NAMES
    ids = torch.tensor([0, 3, 4, 9, 10, 15, 16, 1, 1, 1], dtype=torch.int32)
    places = {
        "photo_places": torch.tensor([[7, 8], [10, 10]]),  # the second is not used
        "scan_places": torch.tensor([[9]]),
    }
    told = op(None, ids=ids, **places)
    assert told.tolist() == [0, 0, 0, 0, 1, 1, 0, 2, 2, 2]
    assert told.dtype is torch.int32
    assert tell_ids(ids, BLOCKS).tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]


def test_names_of_weights_say_where_they_come_from() -> None:
    dense, routed = (LayerShape(8, 2, 16, 0.0, 1, modalities=names) for names in ((), NAMES))
    shared, own = (set(EncoderLayer(shape).state_dict()) for shape in (dense, routed))
    assert {shared_name(name) or name for name in own} == shared
    assert len(own) == len(shared) + 2 * (len(NAMES) - 1)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_how_many_tokens_a_modality_has_is_data() -> None:
    ffn = make_ffn("relative")
    compiled = torch.compile(ffn, backend="aot_eager", fullgraph=True, dynamic=False)
    generator = torch.Generator().manual_seed(0)
    stance = "default"
    for most in (3, 1, 2, 3):
        numbers_N = torch.randint(most, (12,), generator=generator)
        x_NC = torch.randn(12, 8)
        with torch.compiler.set_stance(stance):
            found = compiled(x_NC, plan_route(numbers_N, NAMES, NAMES))
            found.sum().backward()
        torch.testing.assert_close(found, by_token(ffn, x_NC, numbers_N), rtol=0, atol=1e-5)
        stance = "fail_on_recompile"


def test_a_decoder_writes_with_the_weights_it_was_taught_with() -> None:
    torch.manual_seed(0)
    names = names_of(BLOCKS)
    shape = LayerShape(8, 2, 16, 0.0, 2, modalities=names)
    decoder, table = Decoder(shape, BLOCKS).eval(), TokenTable(17, 8).eval()
    ids_N = torch.tensor([0, 5, 12, 13, 6, 16], dtype=torch.int32)
    memory_MC = torch.randn(5, 8)
    place_N = torch.arange(6, dtype=torch.int32)
    keys_2N = torch.stack((torch.zeros_like(place_N), place_N + 1))
    cross_2N = torch.stack((torch.zeros_like(place_N), torch.full_like(place_N, 5)))
    spec = AttentionSpec(tile=8)
    with torch.no_grad():
        expected = decoder(
            table.embed(ids_N),
            place_N,
            keys_2N,
            memory_MC,
            cross_2N,
            (spec, spec),
            tell_ids(ids_N, BLOCKS),
        )
        stack = RotaryStack(decoder, table)
        sources = Sources(memory_MC, torch.tensor([[0], [5]]), 5)
        cache = open_cache(stack, sources, num_rows=1, max_length=8)
        states = [
            take_step(stack, ids_N[at : at + 1].long(), torch.tensor([at]), cache, 8)
            for at in range(6)
        ]
    torch.testing.assert_close(torch.cat(states), expected, rtol=0, atol=1e-5)


class Reader(nn.Module):
    """A feed-forward part with its route."""

    def __init__(self) -> None:
        super().__init__()
        self.ffn = make_ffn("relative")

    def forward(self, x_NC: Tensor, numbers_N: Tensor) -> Tensor:
        """Return what the part adds."""
        return feed(self.ffn, x_NC, plan_route(numbers_N, NAMES, NAMES))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_exported_has_no_op_of_taskloom() -> None:
    reader = Reader().eval()
    inputs = (torch.randn(5, 8), torch.tensor([2, 0, 1, 1, 0]))
    exported = torch.export.export(reader, inputs)
    targets = [str(node.target) for node in exported.graph.nodes]
    assert not [target for target in targets if "taskloom" in target]
    torch.testing.assert_close(exported.module()(*inputs), reader(*inputs), rtol=0, atol=1e-5)
