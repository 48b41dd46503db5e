"""Streams of small real tasks, for models of both kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.storage.store import Store

from ..train.stores import make_mixture, read_digits

SIZES = ModelConfig(
    width=64, num_heads=4, ffn_width=256, num_encoder_layers=2, num_decoder_layers=2
)
MODELS: Final = {
    "rotary": SIZES,
    "dropout": replace(SIZES, dropout=0.1),
    "trunk": replace(SIZES, position="relative", trunk="resnet50"),
    "relative": replace(SIZES, position="relative", dropout=0.1),
    "per_modality": replace(SIZES, ffn="per_modality"),
    "absolute": replace(SIZES, position="relative", absolute_position="added", relative_bias=False),
}
TEXTS: Final = (
    "a step is some packs, and a pack is some documents of any task",
    "what a query sees are the keys of its own document",
    "no document crosses from one tile into the next unless it is longer than a tile",
)


def make_texts() -> Mixture:
    """Return a task that repeats texts of many lengths."""
    rows = [
        {"id": number, "text": " ".join(TEXTS[: 1 + number % 3] * (1 + number % 7))}
        for number in range(200)
    ]
    instruction = "repeat [TEXT:text] -> [TEXT:text]"
    return Mixture([Task("repeat", instruction, source=Source("texts", rows))], bpe_size=300)


def make_pairs() -> Mixture:
    """Return a task that tells which picture goes with which label, and one that names pictures."""
    source = Source("pictures", read_digits())
    tasks = [
        Task("pair", "[ [IMAGE:image] | [TEXT:label] ] ->", source=source),
        Task("name", "[IMAGE:image] what is it? -> [TEXT:label]", source=source),
    ]
    return Mixture(tasks, slots={"IMAGE": {"size": 32, "patch": 16}}, bpe_size=270)


def make_names() -> Mixture:
    """Return the one that names pictures."""
    _, name = make_pairs().tasks
    return replace(make_pairs(), parts=[name])


MIXTURES: Final = {
    "digits": make_mixture,
    "texts": make_texts,
    "pairs": make_pairs,
    "names": make_names,
}

OpenStream = Callable[..., Stream]


@pytest.fixture(scope="session")
def open_small(tmp_path_factory: pytest.TempPathFactory) -> OpenStream:
    """Return a function that opens a mixture for a model, both by name."""

    @cache
    def store_of(mixture: str) -> Path:
        path = tmp_path_factory.mktemp(mixture) / "store"
        build(MIXTURES[mixture](), path, progress=False)
        return path

    def open_(mixture: str, model: str, **settings: object) -> Stream:
        config = replace(TrainConfig(source_tokens=1024, compile="off"), **settings)
        store = Store.open(store_of(mixture))
        return open_stream(MIXTURES[mixture](), store, MODELS[model], config)

    return open_
