"""Presets have as many parameters as OFASys counts, and the rotary model has none of them."""

from __future__ import annotations

import pytest
import torch

from taskloom.graph.vocabulary import Block, Vocabulary
from taskloom.ops.device.config import TRUNKS, ModelConfig
from taskloom.ops.device.relative.adapter import SlotShape
from taskloom.ops.device.relative.image import image_slots
from taskloom.ops.device.relative.presets import PRESETS
from taskloom.ops.device.relative.resnet import RESNETS
from taskloom.ops.device.relative.vit import VITS
from taskloom.pipeline import Task
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.planner.planning import plan

VOCABULARY = Vocabulary.of([Block("text", 59_453)])
MILLIONS = {
    "tiny": 32.9,
    "medium": 91.8,
    "base": 180.4,
    "large": 469.8,
    "huge": 925.9,
    "asr_small": 70.1,
    "asr_base": 223.5,
}


def count(config: ModelConfig, instruction: str) -> dict[str, int]:
    """Return the parameters of a model by scope, having made none of them."""
    with torch.device("meta"):
        program = Program(plan(Task("task", instruction), model=config, vocabulary=VOCABULARY))
    return program.num_parameters


@pytest.mark.parametrize("name", MILLIONS)
def test_a_preset_is_as_large_as_in_ofasys(name: str) -> None:
    instruction = "[IMAGE:img,size=480,patch=16] what is it? -> [TEXT:cap]"
    counts = count(PRESETS[name], instruction)
    assert round(sum(counts.values()) / 1e6, 1) == MILLIONS[name]
    assert round(counts["vocabulary"] / 1e6, 1) == round(59_457 * PRESETS[name].width / 1e6, 1)


@pytest.mark.parametrize(("name", "billions"), [("6b", 5.50), ("8b", 7.71), ("10b", 9.31)])
def test_a_large_preset_is_as_large_as_its_layers_are(name: str, billions: float) -> None:
    # The figures of OFASys are of the layers and the vocabulary; positions and biases are a percent.
    total = sum(count(PRESETS[name], "[TEXT:a] -> [TEXT:b]").values())
    assert total / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_trunk_makes_a_token_of_every_cell(trunk: str) -> None:
    assert TRUNKS.keys() == {*RESNETS, *VITS}
    cell = TRUNKS[trunk]
    with torch.device("meta"):
        slots = image_slots(SlotShape(width=8), trunk)
        tokens, positions = slots(torch.empty(2, 3, 3 * cell, 4 * cell))
    assert tokens.shape == positions.shape == (2, 12, 8)


def test_a_preset_reads_text_without_a_trunk() -> None:
    counts = count(PRESETS["tiny"], "[TEXT:a] -> [TEXT:b]")
    assert "image" not in counts
    assert counts.keys() == {"vocabulary", "source_tokens", "target_tokens", "encoder", "decoder"}
