"""Presets have as many parameters as OFASys counts, and the rotary model has none of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from taskloom.graph.modality import MODALITIES
from taskloom.graph.vocabulary import Block, Vocabulary
from taskloom.ops.device.config import TRUNKS, ModelConfig
from taskloom.ops.device.relative.adapter import SlotShape
from taskloom.ops.device.relative.image import image_slots
from taskloom.ops.device.relative.layer import (
    RelativeDecoderLayer,
    RelativeEncoderLayer,
    RelativeShape,
)
from taskloom.ops.device.relative.presets import PRESETS
from taskloom.ops.device.relative.resnet import RESNETS
from taskloom.ops.device.relative.vit import VITS
from taskloom.pipeline import Task
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.planner.planning import plan

VOCABULARY = Vocabulary.of([Block("text", 59_453)])
CAPTION = "[IMAGE:img,size=480,patch=16] what is it? -> [TEXT:cap]"
READS_TEXT = "[TEXT:a] -> [TEXT:b]"
PARTS = {
    "vocabulary": "vocabulary.",
    "trunk": "image.trunk.",
    "encoder layers": "encoder.layers.",
    "decoder layers": "decoder.layers.",
}
"""What OFASys' parameters are counted in, and what our names of each begin with."""

MILLIONS = {
    "tiny": (32.9, 15.2, 8.5, 3.2, 4.2),
    "medium": (91.8, 30.4, 27.5, 12.6, 16.8),
    "base": (180.4, 45.7, 27.5, 42.6, 56.8),
    "large": (469.8, 60.9, 43.2, 151.3, 201.7),
    "huge": (925.9, 76.1, 43.2, 472.6, 315.0),
    "asr_small": (70.1, 15.2, 27.5, 15.8, 9.5),
    "asr_base": (223.5, 45.7, 27.5, 85.1, 56.8),
}
"""All parameters of a preset, and those of each part, as measured in OFASys."""


def build(config: ModelConfig, instruction: str) -> Program:
    """Return a model that takes no memory."""
    with torch.device("meta"):
        return Program(plan(Task("task", instruction), model=config, vocabulary=VOCABULARY))


def count(module: nn.Module, prefix: str = "") -> int:
    """Return how many parameters have names that begin so, within the scopes of a model."""
    named = module.named_parameters()
    return sum(p.numel() for name, p in named if name.removeprefix("scopes.").startswith(prefix))


@pytest.mark.parametrize("name", MILLIONS)
def test_a_preset_and_each_of_its_parts_are_as_large_as_in_ofasys(name: str) -> None:
    model = build(PRESETS[name], CAPTION)
    sizes = [count(model, prefix) for prefix in ("", *PARTS.values())]
    assert [round(size / 1e6, 1) for size in sizes] == [*MILLIONS[name]]


@pytest.mark.parametrize(("name", "billions"), [("6b", 5.50), ("8b", 7.71), ("10b", 9.31)])
def test_layers_and_vocabulary_of_a_large_preset_are_as_large_as_in_ofasys(
    name: str, billions: float
) -> None:
    model = build(PRESETS[name], READS_TEXT)
    assert round(sum(count(model, prefix) for prefix in PARTS.values()) / 1e9, 2) == billions
    # Positions, with their vectors, norms and biases, are what OFASys' figures leave out.
    assert count(model) / 1e9 == pytest.approx(billions, rel=0.01)


def test_nine_modalities_have_as_many_weights_as_in_ofasys_but_for_a_copy_that_it_never_uses() -> (
    None
):
    with torch.device("meta"):
        shape = RelativeShape(width=768, num_heads=12, ffn_width=3072, num_layers=6)
        own = replace(shape, modalities=tuple(MODALITIES))
        shared = [RelativeEncoderLayer(shape), RelativeDecoderLayer(shape)]
        routed = [RelativeEncoderLayer(own), RelativeDecoderLayer(own)]
    more = 6 * sum(count(ours) - count(one) for ours, one in zip(routed, shared, strict=True))
    unused = 12 * sum(count(shared[0], f"ffn.{part}.") for part in ("up", "down"))
    assert len(MODALITIES) == 9
    assert round(unused / 1e6, 1) == 56.7
    base = count(build(PRESETS["base"], CAPTION))
    assert round((base + more + unused) / 1e6, 1) == 690.4


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_trunk_makes_a_token_of_every_cell(trunk: str) -> None:
    assert TRUNKS.keys() == {*RESNETS, *VITS}
    cell = TRUNKS[trunk]
    with torch.device("meta"):
        slots = image_slots(SlotShape(width=8), trunk)
        tokens, positions = slots(torch.empty(2, 3, 3 * cell, 4 * cell))
    assert tokens.shape == positions.shape == (2, 12, 8)


def test_a_preset_reads_text_without_a_trunk() -> None:
    model = build(PRESETS["tiny"], READS_TEXT)
    scopes = {"vocabulary", "source_tokens", "target_tokens", "encoder", "decoder"}
    assert model.num_parameters.keys() == scopes
