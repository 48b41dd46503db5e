"""Every device op keeps the promises its signature makes."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from taskloom.graph.op import parameters
from taskloom.graph.type import Layout, Place
from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.decoder import DecodeStreams
from taskloom.ops.device.embedding import EmbedPatches, EmbedTokens, PlaceTokens
from taskloom.ops.device.encoder import EncodeStreams
from taskloom.ops.device.loss import ScoreTokens
from taskloom.ops.device.op import DeviceOp

CONFIG = ModelConfig(width=8, num_heads=2, ffn_width=8, dropout=0.25)
OPS: list[DeviceOp] = [
    EmbedTokens(num_ids=5, model_width=8),
    EmbedPatches(height=4, width=4, patch=2, model_width=8),
    PlaceTokens(model_width=8),
    EncodeStreams.of(CONFIG),
    DecodeStreams.of(CONFIG),
    ScoreTokens(num_ids=5, model_width=8, num_losses=2, label_smoothing=0.1),
]

every_op = pytest.mark.parametrize("op", OPS, ids=[op.traits.name for op in OPS])


@every_op
def test_a_call_takes_a_module_and_the_ports_by_name(op: DeviceOp) -> None:
    _, _, *inputs = inspect.signature(type(op).__call__).parameters.values()
    assert [parameter.name for parameter in inputs] == list(op.signature.inputs)
    is_optional = [p.default is not inspect.Parameter.empty for p in inputs]
    assert is_optional == [port.is_optional for port in op.signature.inputs.values()]


@every_op
def test_an_op_is_rebuilt_from_its_parameters(op: DeviceOp) -> None:
    assert type(op)(**parameters(op)) == op


@every_op
def test_all_that_crosses_an_edge_is_packed_on_the_device(op: DeviceOp) -> None:
    ports = [*op.signature.inputs.values(), *op.signature.outputs.values()]
    assert {port.layout for port in ports} == {Layout.PACKED}
    assert op.traits.place is Place.DEVICE


@pytest.mark.parametrize(
    ("op", "layout"),
    [
        (EncodeStreams.of(CONFIG), {"tile": 32, "longest": 64}),
        (DecodeStreams.of(CONFIG), {"tile": 32, "longest": 64, "cross_window": 128}),
    ],
)
def test_the_layout_of_packs_changes_no_parameter(
    op: EncodeStreams | DecodeStreams, layout: dict[str, int]
) -> None:
    built: list[dict[str, Tensor]] = []
    for each in (op, replace(op, **layout)):
        torch.manual_seed(0)
        built.append(each.module().state_dict())
    assert built[0].keys() == built[1].keys()
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])
