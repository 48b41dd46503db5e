"""A small program and valid packs for it, as a planner and a loader would make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.decoder import DecodeStreams
from taskloom.ops.device.embedding import EmbedPatches, EmbedTokens, PlaceTokens
from taskloom.ops.device.encoder import EncodeStreams
from taskloom.ops.device.loss import ScoreTokens

NUM_IDS, NUM_TASKS = 40, 3
TILE, NUM_SOURCE, NUM_TARGET = 8, 64, 32
NUM_IMAGES, SIDE, PATCH, NUM_PATCHES = 4, 4, 2, 4
CONFIG = ModelConfig(
    width=16, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, ffn_width=32
)
LONGEST = 2 * TILE


Pack: TypeAlias = dict[str, Tensor]


class Program(nn.Module):
    """Image and text in, loss out."""

    def __init__(self, config: ModelConfig = CONFIG, *, longest: int = LONGEST) -> None:
        super().__init__()
        width = config.width
        self.embed = EmbedTokens(num_ids=NUM_IDS, model_width=width)
        self.cut = EmbedPatches(height=SIDE, width=SIDE, patch=PATCH, model_width=width)
        self.place = PlaceTokens(model_width=width)
        self.encode = replace(EncodeStreams.of(config), tile=TILE, longest=longest)
        self.decode = replace(DecodeStreams.of(config), tile=TILE, longest=longest)
        self.score = ScoreTokens(
            num_ids=NUM_IDS,
            model_width=width,
            num_losses=NUM_TASKS,
            label_smoothing=config.label_smoothing,
        )
        self.table = self.embed.module()
        self.patches = self.cut.module()
        self.encoder = self.encode.module()
        self.decoder = self.decode.module()

    def read(self, pack: Pack) -> Tensor:
        """Return the encoder's stream."""
        stream = self.embed(self.table, ids=pack["source_ids"])
        tokens = self.cut(self.patches, images=pack["image"])
        stream = self.place(None, hidden=stream, tokens=tokens, places=pack["image_places"])
        return self.encode(
            self.encoder,
            hidden=stream,
            positions=pack["source_positions"],
            keys=pack["source_keys"],
        )

    def write(self, pack: Pack, memory: Tensor) -> Tensor:
        """Return the decoder's states of the target stream."""
        return self.decode(
            self.decoder,
            hidden=self.embed(self.table, ids=pack["target_ids"]),
            positions=pack["target_positions"],
            keys=pack["target_keys"],
            memory=memory,
            cross_keys=pack["cross_keys"],
        )

    def forward(self, pack: Pack, divisor: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and loss and weight per task."""
        return self.score(
            self.table,
            hidden=self.write(pack, self.read(pack)),
            labels=pack["labels"],
            weights=pack["weights"],
            loss_ids=pack["loss_ids"],
            divisor=divisor,
        )


class Document:
    """One sample: source and target ids, and an image at the head of the source or none."""

    def __init__(
        self, rng: np.random.Generator, sizes: tuple[int, int, bool] | None = None
    ) -> None:
        if sizes is None:
            has_image = bool(rng.random() < 0.5)
            shortest = NUM_PATCHES if has_image else 0
            source, target = rng.integers((shortest, 1), LONGEST + 1)
        else:
            source, target, has_image = sizes
        self.source = rng.integers(4, NUM_IDS, source)
        self.target = rng.integers(4, NUM_IDS, target)
        self.labels = rng.integers(4, NUM_IDS, target)
        self.task = int(rng.integers(NUM_TASKS))
        self.image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) if has_image else None


def pack_documents(documents: list[Document]) -> tuple[Pack, list[tuple[int, int]]]:
    """Return the pack of the first documents that fit, and where each begins in source and target."""
    pack = _empty_pack()
    starts: list[tuple[int, int]] = []
    source = target = image = 0
    for document in documents:
        source = _align(source, len(document.source))
        target = _align(target, len(document.target))
        stop, target_stop = source + len(document.source), target + len(document.target)
        image_stop = image + (document.image is not None)
        if stop > NUM_SOURCE or target_stop > NUM_TARGET or image_stop > NUM_IMAGES:
            break
        own = slice(source, stop)
        pack["source_ids"][own] = document.source
        pack["source_positions"][own] = np.arange(len(document.source))
        pack["source_keys"][:, own] = [[source], [stop]]
        own = slice(target, target_stop)
        pack["target_ids"][own] = document.target
        pack["target_positions"][own] = np.arange(len(document.target))
        pack["target_keys"][0, own] = target
        pack["target_keys"][1, own] = np.arange(target + 1, target_stop + 1)
        pack["cross_keys"][:, own] = [[source], [stop]]
        pack["labels"][own] = document.labels
        pack["weights"][own] = 1
        pack["loss_ids"][own] = document.task
        if document.image is not None:
            pack["image"][image] = document.image
            pack["image_places"][image] = np.arange(source, source + NUM_PATCHES)
        starts.append((source, target))
        source, target, image = stop, target_stop, image_stop
    return {name: torch.from_numpy(array) for name, array in pack.items()}, starts


def _align(start: int, length: int) -> int:
    is_whole = start // TILE == (start + max(1, length) - 1) // TILE
    return start if is_whole else -(-start // TILE) * TILE


def _empty_pack() -> dict[str, npt.NDArray[Any]]:
    def zeros(*shape: int) -> npt.NDArray[np.int32]:
        return np.zeros(shape, np.int32)

    return {
        "source_ids": zeros(NUM_SOURCE) + 1,
        "source_positions": zeros(NUM_SOURCE),
        "source_keys": zeros(2, NUM_SOURCE),
        "target_ids": zeros(NUM_TARGET) + 1,
        "target_positions": zeros(NUM_TARGET),
        "target_keys": zeros(2, NUM_TARGET),
        "cross_keys": zeros(2, NUM_TARGET),
        "labels": zeros(NUM_TARGET) + 1,
        "weights": np.zeros(NUM_TARGET, np.float32),
        "loss_ids": zeros(NUM_TARGET),
        "image": np.zeros((NUM_IMAGES, SIDE, SIDE, 3), np.uint8),
        "image_places": zeros(NUM_IMAGES, NUM_PATCHES) + NUM_SOURCE,
    }


@pytest.fixture
def program() -> Program:
    """A program with the same parameters in every test, in double precision."""
    torch.manual_seed(0)
    return Program().double()


@pytest.fixture
def build_program() -> Callable[..., Program]:
    """Builds programs of other sizes."""
    return Program


@pytest.fixture
def pack() -> Callable[[list[Document]], tuple[Pack, list[tuple[int, int]]]]:
    """Packs documents, and says where each begins in source and target."""
    return pack_documents


@pytest.fixture
def documents() -> list[Document]:
    """Documents that fit one pack together, some with images, one without a source."""
    rng = np.random.default_rng(5)
    sizes = [(16, 8, True), (9, 5, False), (0, 3, False), (12, 8, True)]
    return [Document(rng, size) for size in sizes]


@pytest.fixture
def packs() -> Iterator[Pack]:
    """Packs of random documents, without end."""
    rng = np.random.default_rng(0)
    return (pack_documents([Document(rng) for _ in range(12)])[0] for _ in iter(int, 1))
