"""What layers cost that keep less, drop paths, have low-rank pairs, or weights for each modality.

One encoder-decoder of rotary positions takes steps, forward and backward, eagerly. Told are CPU-seconds of a
step, the least of some, in turn with a plain model; and the bytes that a step keeps for its backward pass,
parameters left out.

    python bench/bench_layers.py [--out FILE] [--rounds N] [--width N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from report import describe, tell
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.decoder import DecodeStreams
from taskloom.ops.device.encoder import EncodeStreams
from taskloom.ops.device.modality import Blocks, names_of
from taskloom.pipeline.model.activations import Activations, set_activations
from taskloom.pipeline.model.lora import add_lora

TILE, DOCUMENTS = 64, 16
BLOCKS: Final[Blocks] = ((1, "text"), (2, "image"), (3, "bin"), (4, "audio"))
KEPT, RECOMPUTED, ROUTED = 0.25, 1.5, 1.15
"""Bytes of a step that recomputes, its time, and that of one with weights by modality, at most."""


class Model(nn.Module):
    """Both stacks, and a stream of documents to read and write."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        blocks = BLOCKS if config.ffn == "per_modality" else ()
        torch.manual_seed(0)
        self.encode = replace(EncodeStreams.of(config, names_of(blocks)), tile=TILE, longest=TILE)
        self.decode = replace(DecodeStreams.of(config, blocks), tile=TILE, longest=TILE)
        self.encoder, self.decoder = self.encode.module(), self.decode.module()
        position = torch.arange(TILE * DOCUMENTS, dtype=torch.int32)
        start = position // TILE * TILE
        self.positions = position - start
        self.keys = torch.stack([start, start + TILE])
        self.causal = torch.stack([start, position + 1])
        self.hidden = torch.randn(len(position), config.width)
        # Of four documents two are a picture and text, one text and boxes, one text and sound.
        kinds = torch.tensor([[1, 0], [1, 0], [0, 2], [0, 3]])
        numbers = kinds[start // TILE % 4, self.positions // (TILE // 2)]
        self.modalities = numbers.int() if blocks else None

    def forward(self) -> Tensor:
        """Return a loss."""
        memory = self.encode(
            self.encoder,
            hidden=self.hidden,
            positions=self.positions,
            keys=self.keys,
            modalities=self.modalities,
        )
        states = self.decode(
            self.decoder,
            hidden=self.hidden,
            positions=self.positions,
            keys=self.causal,
            memory=memory,
            cross_keys=self.keys,
            modalities=self.modalities,
        )
        return states.square().mean()


def keep(activations: Activations) -> Callable[[Model], None]:
    """Return what lets all layers of a model keep so much."""

    def change(model: Model) -> None:
        for layer in [*model.encoder.layers, *model.decoder.layers]:
            set_activations(layer, activations)

    return change


def pair_up(model: Model) -> None:
    """Put low-rank pairs beside all linear layers."""
    add_lora(model, [name for name, _ in model.named_parameters()], rank=8, alpha=16.0)


def make_models(width: int) -> Mapping[str, Model]:
    """Return the plain model, and others by what they have."""
    plain = ModelConfig(
        width=width,
        num_heads=width // 64,
        num_encoder_layers=4,
        num_decoder_layers=4,
        ffn_width=4 * width,
    )
    others: dict[str, tuple[ModelConfig, Callable[[Model], None]]] = {
        "keep": (plain, keep("keep")),
        "recompute": (plain, keep("recompute")),
        "drop_path": (replace(plain, drop_path=0.1), keep("keep")),
        "low-rank pairs": (plain, pair_up),
        "per_modality": (replace(plain, ffn="per_modality"), keep("keep")),
    }
    models: dict[str, Model] = {}
    for name, (config, change) in others.items():
        models[name] = Model(config)
        change(models[name])
    return models


def count_bytes(model: Model) -> int:
    """Return the bytes that a step keeps, parameters left out."""
    held: list[Tensor] = []

    def hold(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with saved_tensors_hooks(hold, lambda tensor: tensor):
        loss = model()
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in held}
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    num_bytes = sum(each.nbytes() for each in storages.values())
    loss.backward()
    return num_bytes


def time_step(model: Model) -> float:
    """Return the CPU-seconds of a step."""
    began = time.process_time()
    model().backward()
    model.zero_grad()
    return time.process_time() - began


def measure(width: int, num_rounds: int) -> dict[str, Any]:
    """Return the figures of every model."""
    models = make_models(width)
    kept = {name: count_bytes(model) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(num_rounds):
        for name, model in models.items():
            seconds[name].append(time_step(model))
    ratios = {
        name: statistics.median(t / u for t, u in zip(each, seconds["keep"], strict=True))
        for name, each in seconds.items()
    }
    cases = {
        name: {
            "CPU-s of a step": round(min(seconds[name]), 3),
            "to keep": round(ratios[name], 3),
            "MB kept": round(kept[name] / 1e6, 1),
            "kept, to keep": round(kept[name] / kept["keep"], 3),
            "parameters that learn": sum(
                p.numel() for p in models[name].parameters() if p.requires_grad
            ),
        }
        for name in models
    }
    return {
        "cases": cases,
        "holds": kept["recompute"] <= KEPT * kept["keep"]
        and ratios["recompute"] <= RECOMPUTED
        and ratios["per_modality"] <= ROUTED,
    }


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time layers, and count what they keep.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        **describe("torch"),
        "width": options.width,
        "tokens of each side": TILE * DOCUMENTS,
        **measure(options.width, options.rounds),
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
